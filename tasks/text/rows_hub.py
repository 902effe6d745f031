"""Rows of a data set on the Hugging Face hub, through `datasets`, streamed: only what is needed is fetched.

No code of the data set runs: the commit is pinned, and only plain file formats are opened. The endpoint is HF_ENDPOINT,
the token HF_TOKEN from the environment; a token that a login left on this machine is not used.
"""

import logging
import os
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from quantmill.errors import TextError
from quantmill.recipe.texts import DATASET, TextSource
from tasks import hub
from tasks.text.rows import Document, of_rows
from tasks.text.sources import Role, on_side

_FORMATS = ("arrow", "csv", "json", "parquet", "text")


def take(source: TextSource, role: Role, limit: int, where: str) -> list[Document]:
    """Return the documents of one side, up to about `limit` bytes; see `take` in `sources.py`."""
    name = "hf://datasets/" + source.source.removeprefix(DATASET)  # without the prefix a folder of that name is taken
    return list(read(name, source.subset, source.split, source.revision, source.field, role, limit, where))


@lru_cache(maxsize=16)  # a request is checked before the run and read in it
def read(
    path: str, subset: str, split: str, revision: str, field: str, role: Role, limit: int, where: str
) -> tuple[Document, ...]:
    """Return the documents of one side of what `datasets` finds at `path`: a repository on the hub, or a folder.

    Raises:
        TextError: there is no such data set, split or field, or it is no plain file format.
        DownloadError: the hub does not answer.
    """
    shown = f"{where}source: {path.removeprefix('hf://datasets/')}"
    with tempfile.TemporaryDirectory() as cache:
        try:
            rows = _stream(path, subset, split, revision, cache, shown)
            return tuple(on_side(of_rows(rows, path.rpartition("/")[2], field, where), role, limit))
        except TextError:
            raise
        except Exception as error:
            # the network, the hub and every reader behind `datasets`: what they raise is said in one line
            words = f"cannot be read: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise hub.translated(error, shown, TextError) or TextError(f"{shown}: {words}") from error


def _stream(
    path: str, subset: str, split: str, revision: str, cache: str, shown: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    import datasets

    datasets.disable_progress_bars()
    for name in ("datasets", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)  # a hub that is down is one line, not one for each try
    builder = datasets.load_dataset_builder(
        path,
        subset or None,
        revision=revision or None,
        token=os.environ.get("HF_TOKEN") or False,
        cache_dir=cache,
        download_config=datasets.DownloadConfig(cache_dir=cache, token=os.environ.get("HF_TOKEN") or False),
    )
    form = type(builder).__module__.rpartition(".")[2]
    if form not in _FORMATS:
        raise TextError(f"{shown}: its files are {form}; allowed are {', '.join(_FORMATS)}")
    for number, row in enumerate(builder.as_streaming_dataset(split=split), start=1):
        yield f"row {number}", row
