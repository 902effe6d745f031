"""The field of the recipe that an error of a source is about. Sources raise without one: who knows the field adds it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from quantmill.errors import DownloadError, SourceError, VerificationError


class WrongRevision(SourceError):
    """A source has no such revision; becomes a `SourceError` of the field that names the revision."""


def of_model() -> AbstractContextManager[None]:
    """Put `model.source` or `model.revision` before what is raised of the recipe's model."""
    return named("model.source", "model.revision")


@contextmanager
def named(field: str, revision: str = "") -> Iterator[None]:
    """Put a field before what is raised of a source, or of its revision; the error's type stays."""
    try:
        yield
    except WrongRevision as error:
        raise SourceError(f"{revision or field}: {error}") from error
    except (SourceError, DownloadError, VerificationError) as error:
        raise type(error)(f"{field}: {error}") from error
