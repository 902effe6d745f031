"""What a hub's client raises -> one line that says what to do. The words of the client hold addresses, and are left out."""

from collections.abc import Iterator
from contextlib import contextmanager

from quantmill.errors import DownloadError, SourceError
from quantmill.machine import disk
from quantmill.recipe.recipe import ModelRequest
from quantmill.settings import load_settings

_GO_ON = "the same command goes on; a 40-hex model.revision whose files were fetched needs no hub"


@contextmanager
def one_line(request: ModelRequest) -> Iterator[None]:
    """Raise what the client raises as an error of ours.

    Raises:
        SourceError: there is no such model or revision, or the token may not read it.
        DownloadError: the hub did not answer, or broke off.
        DiskFull: the home's disk is full.
    """
    from httpx2 import HTTPError
    from huggingface_hub import errors

    source = f"model.source: {request.source}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise SourceError(
            f"{source}: a gated model; accept its licence on its page and set HF_TOKEN to a token of that account"
        ) from error
    except errors.RevisionNotFoundError as error:
        revision = request.revision or "main"
        raise SourceError(f"model.revision: {revision}: {request.source} has no such branch, tag or commit") from error
    except errors.RepositoryNotFoundError as error:
        raise SourceError(
            f"{source}: the hub has no such model, or it is private; HF_TOKEN must be a token that may read it"
        ) from error
    except errors.HFValidationError as error:
        raise SourceError(f"{source}: not a name that a hub allows; write it as hf://org/name") from error
    except (HTTPError, OSError, ValueError, KeyError, TypeError, RuntimeError, errors.XetDownloadError) as error:
        if disk.is_full(error):
            raise disk.told(error, load_settings().home.absolute()) from error
        answer = error if isinstance(error, errors.HfHubHTTPError) else error.__cause__
        if isinstance(answer, errors.HfHubHTTPError):
            raise _refused(source, answer.response.status_code) from error
        raise DownloadError(
            f"{source}: the hub does not answer, or broke off ({type(error).__name__}); {_GO_ON}"
        ) from error


def _refused(source: str, status: int) -> SourceError | DownloadError:
    if status in (401, 403):
        return SourceError(f"{source}: the hub refuses (HTTP {status}); set HF_TOKEN to a token that may read it")
    return DownloadError(f"{source}: the hub answered HTTP {status}; {_GO_ON}")
