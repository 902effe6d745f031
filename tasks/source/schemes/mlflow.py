"""`mlflow://models/name/version`: a model version in MLflow's registry.

The files of a version that Quantmill published are in the store: a baseline can be compressed again, a quantized variant
cannot. Any other version is a folder of artifacts: a plain model folder, or a folder that MLflow's transformers flavour
wrote. An alias is resolved once, and the origin keeps the version number.
"""

import re
import tempfile
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

from quantmill.errors import SourceError
from quantmill.files import keys
from quantmill.recipe.recipe import ModelRequest
from quantmill.recipe.schemes import SCHEMES
from quantmill.records.artifact import Origin, Preview
from quantmill.records.manifest import CARD_PATH, Manifest
from quantmill.settings import load_settings
from quantmill.store.places import configured_store
from quantmill.store.store import Store
from tasks.model import files as model_files
from tasks.model.architecture import of_config
from tasks.source import remote
from tasks.source.local import require_revision
from tasks.source.mlflow_shelf import ArtifactShelf
from tasks.source.sights import Found, Sight
from tasks.tracking import connect, is_empty, one_line

_ROW = SCHEMES["mlflow"]
_PUBLISHED = re.compile(r"quantmill://[^/@]+/(?P<variant>[^/@]+)@(?P<manifest>[0-9a-f]{64})")


class MlflowSource:
    """One version of a registered model."""

    def __init__(self, request: ModelRequest, home: Path) -> None:
        """Keep the name; MLflow is not asked yet."""
        parts = _ROW.parse(request.source.removeprefix(_ROW.prefix))
        self._request, self._home = request, home
        self._name, self._alias, self._number = parts["name"], parts["alias"], parts["version"]

    @property
    def fetches(self) -> bool:
        """Whether weights must be fetched to know their digests; the store knows those of its own versions."""
        return self._manifest is None

    @property
    def stamp(self) -> object:
        """The tracking URI, the version number and its artifact URI; MLflow never changes artifacts."""
        return [load_settings().tracking_uri, *self._version]

    def preview(self) -> Preview:
        """Return a preview from the version's files and the model's config."""
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
        """Return the version's files with their sha256; files that are not in the store are fetched."""
        resolved = "/".join((self._name, self._version[0]))
        if self._manifest is None:
            return require_revision(remote.take(self._request, self._shelf, self._cache(resolved), resolved))
        files = tuple(file for file in self._manifest.files if "/" not in file.path and file.path != CARD_PATH)
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
        return require_revision(made)

    def fetch(self, origin: Origin) -> Path:
        """Return a folder with exactly the origin's files, even if the request's alias has moved since."""
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
        """The version number and the URI of its artifacts."""
        source = self._request.source
        uri = load_settings().tracking_uri
        if is_empty(uri):
            raise SourceError(f"{source}: nothing is registered yet; QUANTMILL_MLFLOW_URI names another MLflow")
        with one_line(source):
            client = connect(uri)
            if self._alias:
                found = client.get_model_version_by_alias(self._name, self._alias)
            else:
                found = client.get_model_version(self._name, self._number)
            return str(found.version), str(client.get_model_version_download_uri(self._name, found.version))

    @cached_property
    def _manifest(self) -> Manifest | None:
        """The manifest of a version in the store; None for a version elsewhere.

        Raises:
            SourceError: the version is a quantized variant, or names no published variant.
        """
        number, place = self._version
        if not place.startswith("quantmill:"):
            return None
        source = f"{self._request.source}: version {number}"
        if not (found := _PUBLISHED.fullmatch(place)):
            raise SourceError(f"{source} points to {place[:120]}, which names no published variant")
        manifest = self._store.manifest(found["manifest"])
        if manifest.variant.get("method") != "baseline":
            what = f"is variant {found['variant']}, which is compressed already"
            raise SourceError(f"{source} {what}; its model came from {manifest.model.uri}")
        return manifest

    @property
    def _store(self) -> Store:
        return configured_store(load_settings())

    @cached_property
    def _shelf(self) -> ArtifactShelf:
        return ArtifactShelf(self._request.source, load_settings().tracking_uri, *self._version)


def open_source(request: ModelRequest, home: Path) -> MlflowSource:
    """Return the model version that a request names."""
    return MlflowSource(request, home)


def find_models(place: str, wanted: Callable[[str], bool], home: Path) -> Iterator[Found]:
    """Yield the registered models, each at its newest version."""

    def closer(model: str, version: str) -> Callable[[], Sight]:
        def look() -> Sight:
            request = ModelRequest(source=f"{model}/{version}")
            MlflowSource(request, home).preview()
            return Sight(model, request, version, {"version": version})

        return look

    for name, version, changed_at in _newest_versions(place, wanted):
        model = f"{place}/{name}"
        yield Found(model, version, changed_at, closer(model, version))


def _newest_versions(place: str, wanted: Callable[[str], bool]) -> Iterator[tuple[str, str, float]]:
    """Yield name, newest version and its creation time of every registered model with a `wanted` name.

    The time is in seconds since 1970. Versions that Quantmill published are skipped, or they would be compressed again for ever.

    Raises:
        SourceError: MLflow refuses.
        DownloadError: MLflow does not answer.
    """
    uri = load_settings().tracking_uri
    if is_empty(uri):
        return
    with one_line(place):
        client, token = connect(uri), ""
        while True:
            page = client.search_registered_models(max_results=1000, page_token=token or None)
            for name in (model.name for model in page if wanted(model.name)):
                found = client.search_model_versions(f"name = '{name}'", order_by=["version_number DESC"])
                theirs = [version for version in found if not str(version.source).startswith("quantmill:")]
                if theirs:
                    yield name, str(theirs[0].version), theirs[0].creation_timestamp / 1000
            if not (token := page.token):
                return
