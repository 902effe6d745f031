"""`mlflow://models/name/version`: a model that MLflow's registry knows; its only reader before a run; `register` and `registry` write.

A version that Quantmill published lies in the store: the baseline can be taken up again, a quantized variant cannot. Any
other version is a folder of artifacts: a plain model folder, or what MLflow's transformers flavour writes. An alias is
resolved once, and the origin keeps the version.
"""

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from quantmill import keys
from quantmill.artifact import Origin, Preview
from quantmill.errors import DownloadError, SourceError
from quantmill.manifest import Manifest
from quantmill.recipe import ModelRequest
from quantmill.settings import load_settings
from quantmill.store.places import configured_store
from quantmill.store.store import Store
from tasks import model_card, model_files, remote, sources
from tasks.architecture import of_config

if TYPE_CHECKING:
    from mlflow import MlflowClient

_NAME = re.compile(r"models/(?P<name>[^/@:]+)/?(?:(?<=/)(?P<version>[0-9]+)|@(?P<alias>[\w.-]+))")
_PUBLISHED = re.compile(r"quantmill://[^/@]+/(?P<variant>[^/@]+)@(?P<manifest>[0-9a-f]{64})")
_FLAVOUR = ("model", "components/tokenizer")
"""Where MLflow's transformers flavour puts weights and config, and the tokenizer."""


class MlflowSource:
    """One version of a registered model."""

    def __init__(self, request: ModelRequest, home: Path) -> None:
        """Take the name; MLflow is not asked yet."""
        found = _NAME.fullmatch(request.source.removeprefix("mlflow://"))
        if not found:
            raise SourceError(
                f"model.source: {request.source}: write it as mlflow://models/name/version or mlflow://models/name@alias"
            )
        self._request, self._home = request, home
        self._name, self._alias, self._number = found["name"], found["alias"], found["version"]

    @property
    def fetches(self) -> bool:
        """Whether weights are fetched to know their digests: not those that lie in the store."""
        return self._manifest is None

    @property
    def stamp(self) -> object:
        """The version with what it points to; a version's artifacts do not change in MLflow."""
        return [load_settings().tracking_uri, *self._version]

    def preview(self) -> Preview:
        """Return what its listing and its config say."""
        if self._manifest is None:
            return remote.preview(self._request.source, self._shelf)
        origin = self.inspect()
        return Preview(
            kind="folder",
            size_bytes=origin.size_bytes,
            download_bytes=origin.download_bytes,
            architecture=origin.architecture,
        )

    def inspect(self) -> Origin:
        """Return the version's files with their digests; artifacts are fetched for that."""
        resolved = "/".join((self._name, self._version[0]))
        if self._manifest is None:
            return sources.require_revision(remote.take(self._request, self._shelf, self._cache(resolved), resolved))
        files = tuple(file for file in self._manifest.files if "/" not in file.path and file.path != model_card.NAME)
        with tempfile.TemporaryDirectory() as folder:
            self._store.fetch(tuple(file for file in files if file.path == "config.json"), Path(folder))
            architecture = of_config(Path(folder))
        made = Origin(
            request=self._request,
            kind="folder",
            files=files,
            architecture=architecture,
            license=self._manifest.license,
            resolved=resolved,
        )
        return sources.require_revision(made)

    def fetch(self, origin: Origin) -> Path:
        """Return a folder with just the origin's bytes; an alias that moved does not matter."""
        self._alias, self._number = None, origin.resolved.rpartition("/")[2]
        cache = self._cache(origin.resolved)
        if self._manifest is None:
            return remote.again(origin, lambda: self._shelf, cache)
        for file in origin.files:
            if not remote.is_entry(cache / file.path, file):
                (cache / file.path).unlink(missing_ok=True)
                self._store.fetch((file,), cache)
        model_files.check_files(cache, [file.path for file in origin.files])
        return cache

    def _cache(self, resolved: str) -> Path:
        return self._home / "fetched" / f"mlflow-{keys.digest([load_settings().tracking_uri, resolved])[:32]}"

    @cached_property
    def _version(self) -> tuple[str, str]:
        """The version's number, and where what it is of lies."""
        source, uri = f"model.source: {self._request.source}", load_settings().tracking_uri
        if _is_empty(uri):
            raise SourceError(f"{source}: nothing is registered yet; QUANTMILL_MLFLOW_URI names another MLflow")
        with _one_line(source):
            client = _client(uri)
            if self._alias:
                found = client.get_model_version_by_alias(self._name, self._alias)
            else:
                found = client.get_model_version(self._name, self._number)
            return str(found.version), str(client.get_model_version_download_uri(self._name, found.version))

    @cached_property
    def _manifest(self) -> Manifest | None:
        """The manifest of a version that lies in the store, if it can be compressed again; None for any other place."""
        number, place = self._version
        if not place.startswith("quantmill:"):
            return None
        source = f"model.source: {self._request.source}: version {number}"
        if not (found := _PUBLISHED.fullmatch(place)):
            raise SourceError(f"{source} points to {place[:120]}, which names no published variant")
        manifest = self._store.manifest(found["manifest"])
        if manifest.variant.get("method") != "baseline":
            what = f"is the variant {found['variant']}, compressed already"
            raise SourceError(f"{source} {what}; its model came from {manifest.model.uri}")
        return manifest

    @property
    def _store(self) -> Store:
        return configured_store(load_settings())

    @cached_property
    def _shelf(self) -> "ArtifactShelf":
        return ArtifactShelf(self._request.source, load_settings().tracking_uri, *self._version)


def newest_versions(wanted: Callable[[str], bool]) -> Iterator[tuple[str, str, float]]:
    """Yield the registered models that are wanted by name: name, newest version, when it was made in seconds since 1970.

    What Quantmill published is passed over, or it would be compressed again for ever.

    Raises:
        SourceError: MLflow refuses.
        DownloadError: MLflow does not answer.
    """
    source, uri = "mlflow://models", load_settings().tracking_uri
    if _is_empty(uri):
        return
    with _one_line(source):
        client, token = _client(uri), ""
        while True:
            page = client.search_registered_models(max_results=1000, page_token=token or None)
            for name in (model.name for model in page if wanted(model.name)):
                found = client.search_model_versions(f"name = '{name}'", order_by=["version_number DESC"])
                theirs = [version for version in found if not str(version.source).startswith("quantmill:")]
                if theirs:
                    yield name, str(theirs[0].version), theirs[0].creation_timestamp / 1000
            if not (token := page.token):
                return


def _is_empty(uri: str) -> bool:
    """Return whether nothing was ever registered: to ask would make the database."""
    return uri.startswith("sqlite:") and not Path(urlsplit(uri).path.removeprefix("/")).exists()


class ArtifactShelf:
    """The artifacts of a version as a model folder."""

    def __init__(self, source: str, tracking_uri: str, number: str, place: str) -> None:
        """Take where they are; nothing is listed yet."""
        self._source, self._tracking, self._number, self._place = source, tracking_uri, number, place

    @cached_property
    def listing(self) -> Mapping[str, remote.Listed]:
        """The files by name: those of the folder, or of the folders of MLflow's transformers flavour."""
        return {name: remote.Listed(size, f"{self._number} {path}") for name, (size, path) in self._found.items()}

    def read_file(self, name: str, target: Path, advance: Callable[[int], None]) -> str:
        """Write an artifact to `target` and return its sha256."""
        from mlflow.artifacts import download_artifacts

        with (
            tempfile.TemporaryDirectory(dir=target.parent) as folder,
            _one_line(f"model.source: {self._source}: {name}"),
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
        """Return name -> size and path below the version's place; folders end with a slash."""
        from mlflow.artifacts import list_artifacts

        uri = f"{self._place.rstrip('/')}/{folder}".rstrip("/")
        with _one_line(f"model.source: {self._source}"):
            entries = list_artifacts(artifact_uri=uri, tracking_uri=self._tracking)
        found = {}
        for entry in entries:
            name = str(entry.path).rpartition("/")[2]
            path = f"{folder}/{name}".lstrip("/")
            found[f"{name}/" if entry.is_dir else name] = (int(entry.file_size or 0), path)
        return found


def _client(uri: str) -> "MlflowClient":
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextmanager
def _one_line(source: str) -> Iterator[None]:
    """Raise what MLflow raises as an error of ours; its words hold addresses, and are left out."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        code: Any = error.error_code
        if code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise SourceError(f"{source}: MLflow has no such model, version, alias or artifact") from error
        if code in ("PERMISSION_DENIED", "UNAUTHENTICATED"):
            raise SourceError(
                f"{source}: MLflow refuses ({code}); its credentials come from MLFLOW_TRACKING_*"
            ) from error
        raise DownloadError(
            f"{source}: MLflow does not answer, or broke off ({code}); the same command goes on"
        ) from error
    except OSError as error:
        raise DownloadError(f"{source}: broke off ({type(error).__name__}); the same command goes on") from error
