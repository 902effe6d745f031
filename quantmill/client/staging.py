"""Stages a version's files: reuses equal local files, fetches the others, checks every byte."""

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from quantmill.client.pulled import Place
from quantmill.client.tree import damaged, holds, read_records, unlisted, write_records
from quantmill.errors import LayoutTooNew, VerificationError
from quantmill.files import contents
from quantmill.files.entries import FileEntry
from quantmill.records.manifest import StoredManifest
from quantmill.store.objects import OnBytes
from quantmill.store.store import Store

_FILES_AT_ONCE = 4


class _Stopped(Exception):
    """Ends a thread whose work is no longer needed."""


def bring(store: Store, version: StoredManifest, attestation: bytes | None, place: Place, on_bytes: OnBytes) -> None:
    """Complete a version's folder below `place`.

    Files from an earlier attempt, and equal files of other versions in `place`, are reused.

    Raises:
        VerificationError: the store's bytes do not match the manifest, a file has a format that no model needs
            (`contents.py`), or the version's folder holds a file that the manifest does not list.
    """
    manifest, digest = version.manifest, version.digest
    tree, staged = place.tree(digest), place.staging(digest)
    place.clear_staging(but=digest)
    staged.mkdir(parents=True, exist_ok=True)
    wanted = list(manifest.files)
    if tree.exists():
        if more := unlisted(tree, manifest):
            raise VerificationError(f"{more[0]}: not in the manifest; remove it")
        wanted = damaged(tree, manifest.files)
    on_bytes(sum(entry.size_bytes for entry in manifest.files) - sum(entry.size_bytes for entry in wanted))
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        at_hand = pool.map(lambda entry: _is_at_hand(entry, staged / entry.path, place, on_bytes), wanted)
        missing = [entry for entry, found in zip(wanted, at_hand, strict=True) if not found]
    place.require_room(sum(entry.size_bytes for entry in missing))
    _fetch(store, missing, staged, on_bytes)
    for path in unlisted(staged, manifest):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)  # left by a killed fetch
    for entry in wanted:
        contents.check_file(staged / entry.path, entry.path)
    write_records(staged, version, attestation)
    place.land(digest)


def _is_at_hand(entry: FileEntry, target: Path, place: Place, on_bytes: OnBytes) -> bool:
    """Return whether a file is in the staging folder, after a look for an equal file of another version.

    An equal file is linked or copied into the staging folder.
    """
    if not holds(target, entry):
        target.parent.mkdir(parents=True, exist_ok=True)
        for path in _equal_files(entry, place):
            target.unlink(missing_ok=True)
            try:
                target.hardlink_to(path)
            except OSError:  # no hard links here, or too many of this file
                shutil.copyfile(path, target)
            if holds(target, entry):
                break
            target.unlink()
        else:
            return False
    on_bytes(entry.size_bytes)
    return True


def _equal_files(entry: FileEntry, place: Place) -> Iterator[Path]:
    versions = place.root / "store"
    for tree in sorted(versions.iterdir()) if versions.exists() else ():
        try:
            files = read_records(tree)[0].manifest.files
        except (LayoutTooNew, VerificationError):
            continue
        yield from (tree / file.path for file in files if file.sha256 == entry.sha256 and (tree / file.path).is_file())


def _fetch(store: Store, entries: list[FileEntry], folder: Path, on_bytes: OnBytes) -> None:
    """Fetch files in parallel, the largest first; after an error or Ctrl-C all fetches stop."""
    stop = threading.Event()

    def count(moved: int) -> None:
        if stop.is_set():
            raise _Stopped
        on_bytes(moved)

    def fetch(entry: FileEntry) -> None:
        store.fetch_copy(entry, folder / entry.path, count)

    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        try:
            list(pool.map(fetch, sorted(entries, key=lambda entry: -entry.size_bytes)))
        except BaseException:
            stop.set()
            raise
