"""Streams the rows of a data set on the Hugging Face hub with `datasets`; fetches only needed rows.

No code of the data set runs: the commit is pinned, and only plain file formats are opened. The endpoint and the token are
HF_ENDPOINT and HF_TOKEN from the environment; a token stored by a login on this machine is not used.
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
    # Without this prefix, `datasets` would prefer a local folder of that name.
    name = "hf://datasets/" + source.source.removeprefix(DATASET)
    return list(read(name, source.subset, source.split, source.revision, source.field, role, limit, where))


@lru_cache(maxsize=16)  # a request is read twice: by the check before the run and by the run
def read(
    path: str, subset: str, split: str, revision: str, field: str, role: Role, limit: int, where: str
) -> tuple[Document, ...]:
    """Return the documents of one side of the data set at `path`: a repository on the hub, or a folder.

    Raises:
        TextError: the data set, split or field does not exist, or the files have no plain format.
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
            # The network, the hub and the readers behind `datasets` raise many types; each becomes one line.
            words = f"cannot be read: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise hub.translated(error, shown, TextError) or TextError(f"{shown}: {words}") from error


def _stream(
    path: str, subset: str, split: str, revision: str, cache: str, shown: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    import datasets

    datasets.disable_progress_bars()
    for name in ("datasets", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)  # else a hub that is down logs a line for each attempt
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
