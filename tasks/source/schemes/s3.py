"""`s3://bucket/prefix`: a model folder in an object store, through boto3.

boto3 itself reads the endpoint (AWS_ENDPOINT_URL) and the credentials. A listing states sizes and ETags but no sha256: a
file must be fetched before its digest is known. A file with an unchanged size and ETag is not fetched again.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

from quantmill.errors import DownloadError, SourceError
from quantmill.files import keys
from quantmill.recipe.recipe import ModelRequest
from quantmill.records.artifact import Origin, Preview
from quantmill.s3 import address
from quantmill.s3 import client as s3_client
from quantmill.s3.listing import pages
from tasks.model import files as model_files
from tasks.source import remote
from tasks.source.local import require_revision
from tasks.source.sights import Found, Sight

_PIECE_BYTES = 4 << 20


class S3Source:
    """A model folder under a prefix."""

    fetches = True

    def __init__(self, request: ModelRequest, home: Path, client: Any = None) -> None:
        """Keep the address; nothing is requested yet.

        `client` is a boto3 client; None makes one from the environment.
        """
        self._request, self._client = request, client
        self._bucket, prefix = address.read(request.source)
        self._prefix = f"{prefix}/" if prefix else ""
        self._cache = home / "fetched" / f"s3-{keys.digest(request.source)[:32]}"

    @property
    def stamp(self) -> object:
        """Name, size and ETag of every file."""
        return sorted([name, *listed] for name, listed in self.listing.items())

    def preview(self) -> Preview:
        """Return a preview from the listing and the model's config."""
        return remote.preview(self._request.source, self)

    def inspect(self) -> Origin:
        """Fetch the folder and return its files, each with the sha256 of the received bytes."""
        return require_revision(remote.take(self._request, self, self._cache))

    def fetch(self, origin: Origin) -> Path:
        """Return the cache folder with exactly the origin's files."""
        return remote.again(origin, lambda: self, self._cache)

    @cached_property
    def listing(self) -> Mapping[str, remote.Listed]:
        """File name -> size and ETag of the files directly under the prefix.

        Subfolders hold other formats of the same model and are left out.
        """
        found: dict[str, remote.Listed] = {}
        with self._one_line():
            for page in pages(self._connected, self._bucket, self._prefix, Delimiter="/"):
                for entry in page.get("Contents", []):
                    name = str(entry["Key"])[len(self._prefix) :]
                    if name:  # consoles create a key that equals the prefix to show a folder
                        found[name] = remote.Listed(int(entry["Size"]), str(entry["ETag"]).strip('"'))
        if not found:
            raise SourceError(f"{self._request.source}: no file has this prefix")
        return found

    def folders(self) -> dict[str, tuple[dict[str, str], float]]:
        """Return name -> (files, last change in seconds since 1970) of the folders directly below the prefix.

        `files` is file name -> size and ETag of the files directly in the folder.
        """
        files, changed_at = dict[str, dict[str, str]](), dict[str, float]()
        with self._one_line():
            for page in pages(self._connected, self._bucket, self._prefix):
                for entry in page.get("Contents", []):
                    folder, _, name = str(entry["Key"])[len(self._prefix) :].partition("/")
                    if name and "/" not in name:
                        stamp = str(entry["ETag"]).strip('"')
                        files.setdefault(folder, {})[name] = f"{entry['Size']} {stamp}"
                        changed_at[folder] = max(changed_at.get(folder, 0.0), entry["LastModified"].timestamp())
        return {folder: (held, changed_at[folder]) for folder, held in files.items()}

    def read_file(self, name: str, target: Path, advance: Callable[[int], None]) -> str:
        """Write an object to `target` and return its sha256; the object must still have its listed ETag."""
        state = hashlib.sha256()
        with self._one_line(name), target.open("wb") as file:
            etag = self.listing[name].stamp
            answer = self._connected.get_object(Bucket=self._bucket, Key=self._prefix + name, IfMatch=f'"{etag}"')
            for piece in answer["Body"].iter_chunks(_PIECE_BYTES):
                state.update(piece)
                file.write(piece)
                advance(len(piece))
        return state.hexdigest()

    @cached_property
    def _connected(self) -> Any:
        if self._client is not None:
            return self._client
        return s3_client.connect()

    def _one_line(self, name: str = "") -> AbstractContextManager[None]:
        """Translate boto3's errors into one-line errors about the source, or about one of its files."""
        where = ": ".join(filter(None, (self._request.source, name)))
        return s3_client.one_line(where, SourceError, DownloadError, "list and read")


def open_source(request: ModelRequest, home: Path) -> S3Source:
    """Return the folder under the request's prefix."""
    return S3Source(request, home)


def find_models(place: str, wanted: Callable[[str], bool], home: Path) -> Iterator[Found]:
    """Yield the folders directly below a prefix that hold files of a model."""

    def closer(model: str, revision: str, files: dict[str, str]) -> Callable[[], Sight]:
        def look() -> Sight:
            request = ModelRequest(source=model)
            S3Source(request, home).preview()
            return Sight(model, request, revision, files)

        return look

    for name, (files, changed_at) in S3Source(ModelRequest(source=place), home).folders().items():
        parts = {file: stamp for file, stamp in files.items() if model_files.is_part(file)}
        if wanted(name) and parts:
            model, revision = f"{place}/{name}", keys.digest(parts)
            yield Found(model, revision, changed_at, closer(model, revision, parts))
