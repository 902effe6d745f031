"""Reads the artifacts of an MLflow model version as a model folder, for the scheme `mlflow://`."""

import tempfile
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

from quantmill.files import keys
from tasks.source import remote
from tasks.tracking import one_line

_FLAVOUR = ("model", "components/tokenizer")
"""The folders in which MLflow's transformers flavour stores weights with config, and the tokenizer."""


class ArtifactShelf:
    """The artifacts of a model version, listed and read as a model folder."""

    def __init__(self, source: str, tracking_uri: str, number: str, place: str) -> None:
        """Keep the addresses; nothing is listed yet. `place` is the URI of the version's artifacts."""
        self._source, self._tracking, self._number, self._place = source, tracking_uri, number, place

    @cached_property
    def listing(self) -> Mapping[str, remote.Listed]:
        """File name -> size and stamp, of the version's folder or of the transformers flavour's two folders."""
        return {name: remote.Listed(size, f"{self._number} {path}") for name, (size, path) in self._found.items()}

    def read_file(self, name: str, target: Path, advance: Callable[[int], None]) -> str:
        """Write an artifact to `target` and return its sha256."""
        from mlflow.artifacts import download_artifacts

        with (
            tempfile.TemporaryDirectory(dir=target.parent) as folder,
            one_line(f"{self._source}: {name}"),
        ):
            uri = f"{self._place.rstrip('/')}/{self._found[name][1]}"
            came = Path(download_artifacts(artifact_uri=uri, dst_path=folder, tracking_uri=self._tracking))
            came.replace(target)
        advance(target.stat().st_size)
        return keys.file_sha256(target)

    @cached_property
    def _found(self) -> dict[str, tuple[int, str]]:
        root = self._list("")
        if "config.json" in root or f"{_FLAVOUR[0]}/" not in root:
            return {name: entry for name, entry in root.items() if not name.endswith("/")}
        inner = [self._list(folder) for folder in reversed(_FLAVOUR)]
        return {name: entry for part in inner for name, entry in part.items() if not name.endswith("/")}

    def _list(self, folder: str) -> dict[str, tuple[int, str]]:
        """Return name -> (size, path relative to the version's artifacts); names of folders end with a slash."""
        from mlflow.artifacts import list_artifacts

        uri = f"{self._place.rstrip('/')}/{folder}".rstrip("/")
        with one_line(self._source):
            entries = list_artifacts(artifact_uri=uri, tracking_uri=self._tracking)
        found = {}
        for entry in entries:
            name = str(entry.path).rpartition("/")[2]
            path = f"{folder}/{name}".lstrip("/")
            found[f"{name}/" if entry.is_dir else name] = (int(entry.file_size or 0), path)
        return found
