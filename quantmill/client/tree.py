"""The folder of one version: just the manifest's files and, in `.quantmill/`, what it is known by."""

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
    """Return the manifest that lies in a version's folder, and its attestation, unchecked, where there is one.

    Raises:
        LayoutTooNew: a newer release wrote it, in a layout that is not known here.
        VerificationError: there is no manifest, it is damaged, or it is another than the folder's name says.
    """
    path = tree / MANIFEST_PATH
    data = _record(path)
    if data is None:
        raise VerificationError(f"{path}: missing; what is verified is a folder that `quantmill pull` made")
    version = parse_manifest(data, str(path))
    if len(tree.name) == _DIGEST_LENGTH and version.digest != tree.name:
        raise VerificationError(f"{path}: its bytes are not those of the version")
    return version, _record(tree / ATTESTATION_PATH)


def write_records(tree: Path, version: StoredManifest, attestation: bytes | None) -> None:
    """Write what a version is known by into its folder."""
    folder = (tree / MANIFEST_PATH).parent
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in ((MANIFEST_PATH, version.data), (ATTESTATION_PATH, attestation)):
        (tree / name).unlink(missing_ok=True)
        if data:
            (tree / name).write_bytes(data)


def damaged(tree: Path, entries: Iterable[FileEntry]) -> list[FileEntry]:
    """Return the entries whose bytes do not lie below `tree`: every byte is read."""
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        return [entry for entry, right in pool.map(lambda e: (e, holds(tree / e.path, e)), entries) if not right]


def holds(path: Path, entry: FileEntry) -> bool:
    """Return whether a plain file at `path` has just the bytes that the entry names."""
    plain = path.is_file() and not path.is_symlink()
    return plain and path.stat().st_size == entry.size_bytes and keys.file_sha256(path) == entry.sha256


def require_listing(tree: Path, manifest: Manifest) -> None:
    """Raise VerificationError where a file is missing, or something lies there that the manifest does not name."""
    if more := unlisted(tree, manifest):
        raise VerificationError(f"{more[0]}: not in the manifest")
    for entry in manifest.files:
        if not (tree / entry.path).exists():
            raise VerificationError(f"{tree / entry.path}: missing")


def unlisted(tree: Path, manifest: Manifest) -> list[Path]:
    """Return the files and folders below `tree` that are not the version's.

    Raises:
        VerificationError: something there is neither: a link, a device, a pipe.
    """
    files, folders = walk(tree)
    named = {PurePosixPath(entry.path) for entry in manifest.files} | set(map(PurePosixPath, _RECORDS))
    above = {parent for path in named for parent in path.parents}
    return [path for path in files if PurePosixPath(path.relative_to(tree)) not in named] + [
        path for path in folders if PurePosixPath(path.relative_to(tree)) not in above
    ]


def walk(tree: Path) -> tuple[list[Path], list[Path]]:
    """Return the files and folders below `tree`, by path; no link is followed.

    Raises:
        VerificationError: something there is neither: a link, a device, a pipe.
    """
    files: list[Path] = []
    folders: list[Path] = []
    for path, state in below(tree):
        if not (stat.S_ISDIR(state.st_mode) or stat.S_ISREG(state.st_mode)):
            raise VerificationError(f"{path}: neither a plain file nor a folder")
        (folders if stat.S_ISDIR(state.st_mode) else files).append(path)
    return files, folders


def stamps(tree: Path) -> Stamps:
    """Return the size and time of every file below `tree`."""
    states = {path.relative_to(tree).as_posix(): path.stat() for path in walk(tree)[0]}
    return {name: (state.st_size, state.st_mtime_ns) for name, state in states.items()}


def _record(path: Path) -> bytes | None:
    if not os.path.lexists(path):
        return None
    if path.is_symlink() or not path.is_file() or path.stat().st_size > RECORD_BYTES:
        raise VerificationError(f"{path}: not a plain file of at most {RECORD_BYTES >> 20} MiB")
    return path.read_bytes()
