"""The folder of one version: the manifest's files and, in `.quantmill/`, manifest and attestation."""

import os
import stat
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from quantmill.errors import VerificationError
from quantmill.files import keys
from quantmill.files.entries import FileEntry
from quantmill.files.walk import below
from quantmill.records.manifest import ATTESTATION_PATH, MANIFEST_PATH, Manifest, StoredManifest
from quantmill.store.objects import RECORD_BYTES
from quantmill.store.stored import parse_manifest

_RECORDS = (MANIFEST_PATH, ATTESTATION_PATH)
_FILES_AT_ONCE = 4
_DIGEST_LENGTH = 64
Stamps = dict[str, tuple[int, int]]
"""Path -> size in bytes, and time of the last change in nanoseconds."""


def read_records(tree: Path) -> tuple[StoredManifest, bytes | None]:
    """Return the manifest in a version's folder, and its attestation (unchecked) or None.

    Raises:
        LayoutTooNew: a newer release wrote the manifest in a layout that this release does not know.
        VerificationError: the manifest is missing or damaged, or does not match the folder's name.
    """
    path = tree / MANIFEST_PATH
    data = _record(path)
    if data is None:
        raise VerificationError(f"{path}: missing; only a folder that `quantmill pull` made can be verified")
    version = parse_manifest(data, str(path))
    if len(tree.name) == _DIGEST_LENGTH and version.digest != tree.name:
        raise VerificationError(f"{path}: its bytes do not match the version's digest")
    return version, _record(tree / ATTESTATION_PATH)


def write_records(tree: Path, version: StoredManifest, attestation: bytes | None) -> None:
    """Write manifest and attestation into a version's folder."""
    folder = (tree / MANIFEST_PATH).parent
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in ((MANIFEST_PATH, version.data), (ATTESTATION_PATH, attestation)):
        (tree / name).unlink(missing_ok=True)
        if data:
            (tree / name).write_bytes(data)


def damaged(tree: Path, entries: Iterable[FileEntry]) -> list[FileEntry]:
    """Return the entries whose files below `tree` are missing or wrong; reads every byte."""
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        return [entry for entry, right in pool.map(lambda e: (e, holds(tree / e.path, e)), entries) if not right]


def holds(path: Path, entry: FileEntry) -> bool:
    """Return whether `path` is a plain file with exactly the entry's bytes."""
    plain = path.is_file() and not path.is_symlink()
    return plain and path.stat().st_size == entry.size_bytes and keys.file_sha256(path) == entry.sha256


def require_listing(tree: Path, manifest: Manifest) -> None:
    """Raise VerificationError if a file is missing, or the folder holds a path that the manifest lacks."""
    if more := unlisted(tree, manifest):
        raise VerificationError(f"{more[0]}: not in the manifest")
    for entry in manifest.files:
        if not (tree / entry.path).exists():
            raise VerificationError(f"{tree / entry.path}: missing")


def unlisted(tree: Path, manifest: Manifest) -> list[Path]:
    """Return the files and folders below `tree` that are not the version's.

    Raises:
        VerificationError: a path is neither a file nor a folder but a link, a device or a pipe.
    """
    files, folders = walk(tree)
    named = {PurePosixPath(entry.path) for entry in manifest.files} | set(map(PurePosixPath, _RECORDS))
    above = {parent for path in named for parent in path.parents}
    return [path for path in files if PurePosixPath(path.relative_to(tree)) not in named] + [
        path for path in folders if PurePosixPath(path.relative_to(tree)) not in above
    ]


def walk(tree: Path) -> tuple[list[Path], list[Path]]:
    """Return the files and folders below `tree`, by path; links are not followed.

    Raises:
        VerificationError: a path is neither a file nor a folder but a link, a device or a pipe.
    """
    files: list[Path] = []
    folders: list[Path] = []
    for path, state in below(tree):
        if not (stat.S_ISDIR(state.st_mode) or stat.S_ISREG(state.st_mode)):
            raise VerificationError(f"{path}: neither a plain file nor a folder")
        (folders if stat.S_ISDIR(state.st_mode) else files).append(path)
    return files, folders


def stamps(tree: Path) -> Stamps:
    """Return the size and the modification time of every file below `tree`."""
    states = {path.relative_to(tree).as_posix(): path.stat() for path in walk(tree)[0]}
    return {name: (state.st_size, state.st_mtime_ns) for name, state in states.items()}


def _record(path: Path) -> bytes | None:
    if not os.path.lexists(path):
        return None
    if path.is_symlink() or not path.is_file() or path.stat().st_size > RECORD_BYTES:
        raise VerificationError(f"{path}: not a plain file of at most {RECORD_BYTES >> 20} MiB")
    return path.read_bytes()
