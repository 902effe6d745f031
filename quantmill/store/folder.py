"""A store in a folder: bytes are linked into place and records are written to a temporary name, synced, then linked."""

import hashlib
import os
import secrets
import shutil
import time
from pathlib import Path

from pydantic import ValidationError

from quantmill import keys
from quantmill.artifact import StageResult
from quantmill.errors import BlobMissing, NotFound, StoreError, VerificationError
from quantmill.files import FileEntry, safe_path
from quantmill.manifest import Manifest, Version


class FolderStore:
    """A `Store` on a local disk. Blobs are read-only files; a reader never sees one half written."""

    def __init__(self, root: Path, stage_days: float = 90.0) -> None:
        """Open the store in `root`; nothing is created before the first write."""
        self._root = root.absolute()
        self._stage_s = stage_days * 86400

    @property
    def uri(self) -> str:
        """Where it lies."""
        return str(self._root)

    def has_blob(self, entry: FileEntry) -> bool:
        """Return whether the blob is there with the entry's size."""
        try:
            return self._blob(entry.sha256).stat().st_size == entry.size_bytes
        except FileNotFoundError:
            return False

    def add_folder(self, folder: Path) -> tuple[FileEntry, ...]:
        """Store every file below `folder` and return their entries by path; on the same disk a link, no copy."""
        entries = []
        for path in sorted(folder.rglob("*")):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise StoreError(f"{path}: only plain files can be stored")
            if path.is_file():
                entries.append(self._add_file(path, safe_path(path.relative_to(folder).as_posix())))
        return tuple(entries)

    def fetch(self, entries: tuple[FileEntry, ...], folder: Path) -> None:
        """Lay the files out in `folder`, as links where the disk allows; they are for reading only."""
        for entry in entries:
            target = folder / entry.path
            target.parent.mkdir(parents=True, exist_ok=True)
            self._require(entry)
            _link_or_copy(self._blob(entry.sha256), target)

    def look_up(self, stage: str, key: str) -> StageResult | None:
        """Return a stage's result if it has not expired and every blob that it names is there."""
        try:
            result = StageResult.model_validate_json(self._stage(stage, key).read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError:
            return None  # written by another release, or damaged: the stage runs again and replaces it
        if (result.stage, result.key) != (stage, key) or time.time() - result.made_at > self._stage_s:
            return None
        return result if all(self.has_blob(blob) for blob in result.blobs) else None

    def record(self, result: StageResult) -> StageResult:
        """Write a stage result and return the one in force: the first that is complete wins, a later one is dropped."""
        path, data = self._stage(result.stage, result.key), keys.canonical(result)
        if _create(path, data):
            return result
        if winner := self.look_up(result.stage, result.key):
            return winner
        _replace(path, data)
        return result

    def commit(self, manifest: Manifest, version: Version) -> bool:
        """Publish: the manifest, then its version pointer. Returns False where that version was there already."""
        for entry in manifest.files:
            self._require(entry)
        data, path = keys.canonical(manifest), self._manifest(manifest.digest)
        if not _create(path, data) and path.read_bytes() != data:
            _replace(path, data)  # what stood there was not the manifest of that digest
        pointer = self._versions(version.model, version.variant) / f"{version.manifest}.json"
        return _create(pointer, keys.canonical(version))

    def manifest(self, digest: str) -> Manifest:
        """Return a manifest, checked against its digest."""
        try:
            data = self._manifest(digest).read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"manifest {digest}: not in {self._root}") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise VerificationError(f"manifest {digest}: its bytes are not what the digest says")
        return Manifest.model_validate_json(data)

    def versions(self, model: str, variant: str) -> list[Version]:
        """Return a variant's versions, oldest first."""
        found = [_read_version(path) for path in self._versions(model, variant).glob("*.json")]
        return sorted(found, key=lambda version: (version.provenance.made_at, version.manifest))

    def models(self) -> dict[str, list[str]]:
        """Return every published model with its variants, by name."""
        held: dict[str, list[str]] = {}
        for path in sorted(self._root.glob("models/*/*/versions")):
            if any(path.glob("*.json")):
                held.setdefault(path.parent.parent.name, []).append(path.parent.name)
        return held

    def _require(self, entry: FileEntry) -> None:
        """Raise unless the blob is there with just the bytes that its name says."""
        if not self.has_blob(entry):
            raise BlobMissing(f"{entry.path}: blob {entry.sha256} is not in {self._root}")
        if keys.file_sha256(self._blob(entry.sha256)) != entry.sha256:
            self._blob(entry.sha256).unlink()  # what is made again takes its place
            raise VerificationError(
                f"{entry.path}: the bytes in {self._root} were not those of {entry.sha256}; dropped"
            )

    def _add_file(self, path: Path, name: str) -> FileEntry:
        entry = FileEntry(path=name, size_bytes=path.stat().st_size, sha256=keys.file_sha256(path))
        if not self.has_blob(entry):
            blob = self._blob(entry.sha256)
            blob.parent.mkdir(parents=True, exist_ok=True)
            temporary = blob.with_name(f".{blob.name}.{secrets.token_hex(6)}")
            _link_or_copy(path, temporary)
            _sync(temporary)
            temporary.chmod(0o444)
            temporary.replace(blob)  # equal bytes under an equal name: whoever comes last changes nothing
            _sync(blob.parent)
        return entry

    def _blob(self, sha256: str) -> Path:
        return self._root / "blobs" / "sha256" / sha256[:2] / sha256

    def _stage(self, stage: str, key: str) -> Path:
        return self._root / "stages" / stage / f"{key}.json"

    def _manifest(self, digest: str) -> Path:
        return self._root / "manifests" / "sha256" / f"{safe_path(digest)}.json"

    def _versions(self, model: str, variant: str) -> Path:
        if "/" in safe_path(model) + safe_path(variant):
            raise StoreError(f"{model}/{variant}: a name holds no /")
        return self._root / "models" / model / variant / "versions"


def _read_version(path: Path) -> Version:
    try:
        return Version.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise VerificationError(f"{path}: not a version pointer") from error


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)  # another disk, or a file system without links


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_beside(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    with temporary.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return temporary


def _create(path: Path, data: bytes) -> bool:
    """Create `path` with `data`, whole or not at all; False where it exists. The link is what only one writer wins."""
    temporary = _write_beside(path, data)
    try:
        os.link(temporary, path)
        _sync(path.parent)
        return True
    except FileExistsError:
        return False
    finally:
        temporary.unlink()


def _replace(path: Path, data: bytes) -> None:
    _write_beside(path, data).replace(path)
    _sync(path.parent)
