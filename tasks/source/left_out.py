"""Says which files at a source are not part of the model: code, pictures, other formats of weights."""

from collections.abc import Iterable

from tasks.model import files as model_files
from tasks.sandbox import PROGRESS


def tell(source: str, listed: Iterable[str], used: Iterable[str]) -> None:
    """Log the names of a listing that are not used, in one line; nothing where all are."""
    if words := model_files.left_out(listed, used):
        PROGRESS.warning("source: not part of the model, left out: %s (%s)", words, source)
