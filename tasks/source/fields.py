"""Adds the recipe's field to a source's errors. Sources raise errors without a field; callers add it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from quantmill.errors import DownloadError, SourceError, VerificationError


class WrongRevision(SourceError):
    """A source lacks the requested revision; `named` makes this a SourceError of the revision's field."""


def of_model() -> AbstractContextManager[None]:
    """Prefix errors about the recipe's model with `model.source` or `model.revision`."""
    return named("model.source", "model.revision")


@contextmanager
def named(field: str, revision: str = "") -> Iterator[None]:
    """Prefix a source's errors with `field` and keep their types.

    A WrongRevision becomes a SourceError with the prefix `revision`, or `field` where `revision` is empty.
    """
    try:
        yield
    except WrongRevision as error:
        raise SourceError(f"{revision or field}: {error}") from error
    except (SourceError, DownloadError, VerificationError) as error:
        raise type(error)(f"{field}: {error}") from error
