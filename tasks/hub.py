"""Helpers around the client of a model hub.

They turn its errors into one line that says what to do, its progress bars into counts, and compute git's file digest.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quantmill.errors import DownloadError, QuantmillError
from quantmill.machine import disk
from quantmill.settings import load_settings


@contextmanager
def one_line(
    where: str, wrong: type[QuantmillError], broken: type[QuantmillError] = DownloadError, needed: str = "read it"
) -> Iterator[None]:
    """Translate the client's exceptions into Quantmill errors; leave out their text, which holds URLs.

    Args:
        where: the repository; the message begins with it.
        wrong: the error class if the repository or revision is missing, or the token gives no access to it.
        broken: the error class if the hub does not answer, or drops the connection.
        needed: what the token must allow.

    Raises:
        DiskFull: the home's disk is full.
    """
    from httpx2 import HTTPError
    from huggingface_hub.errors import XetDownloadError

    try:
        yield
    except (HTTPError, OSError, ValueError, KeyError, TypeError, RuntimeError, XetDownloadError) as error:
        raise translated(error, where, wrong, broken, needed) or _broke_off(error, where, broken) from error


def translated(
    error: BaseException,
    where: str,
    wrong: type[QuantmillError],
    broken: type[QuantmillError] = DownloadError,
    needed: str = "read it",
) -> QuantmillError | None:
    """Return the Quantmill error for an exception of the hub, the network or a full disk, else None."""
    from httpx2 import HTTPError
    from huggingface_hub import errors

    if disk.is_full(error):
        return disk.told(error, load_settings().home.absolute())
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, HTTPError | ConnectionError | errors.HFValidationError):
        cause = cause.__cause__
    token = f"HF_TOKEN must be a token that may {needed}"
    match cause:
        case None:
            return None
        case errors.GatedRepoError():
            return wrong(f"{where}: gated; accept its licence on its page and set HF_TOKEN to a token of that account")
        case errors.RevisionNotFoundError():
            return wrong(f"{where}: the hub has no such branch, tag or commit of it")
        case errors.RepositoryNotFoundError():
            return wrong(f"{where}: the hub has no such repository, or it is private; {token}")
        case errors.HFValidationError():
            return wrong(f"{where}: not a name that a hub allows; write it as org/name")
        case errors.HfHubHTTPError():
            status = cause.response.status_code
            if status in (401, 403):
                return wrong(f"{where}: the hub refuses (HTTP {status}); {token}")
            if status == 404:
                return wrong(f"{where}: the hub has no such file or revision (HTTP 404)")
            return broken(f"{where}: the hub answered HTTP {status}; the same command goes on")
    return _broke_off(cause, where, broken)


def _broke_off(error: BaseException, where: str, broken: type[QuantmillError]) -> QuantmillError:
    return broken(f"{where}: the hub does not answer, or broke off ({type(error).__name__}); the same command goes on")


def git_digest(path: Path) -> str:
    """Return the SHA-1 that git computes for a file (its blob id)."""
    state = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            state.update(piece)
    return state.hexdigest()


def bar_of(advance: Callable[[int], None]) -> Any:
    """Return a progress bar class for the hub's client that calls `advance` and draws nothing."""
    from huggingface_hub.utils.tqdm import tqdm

    class Counter(tqdm):
        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named | {"disable": True})  # type: ignore[no-untyped-call]  # theirs is not typed

        def update(self, n: float | None = 1) -> None:
            advance(int(n or 0))

        # With these two methods, the Xet client reports received and written bytes to one bar instead of two.
        def update_transfer(self, n: float) -> None:
            pass

        def set_transfer_postfix_str(self, *_: Any, **__: Any) -> None:
            pass

    return Counter
