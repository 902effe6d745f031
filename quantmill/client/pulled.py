"""The layout of a folder that versions are pulled into.

    DIR/current -> store/<manifest digest>     the current version; swapped in one step
    DIR/previous -> store/<manifest digest>    the version that was current before
    DIR/model.gguf -> store/<digest>/FILE      a fixed name for the current version's GGUF file, if it has exactly one
    DIR/store/<manifest digest>/               a version: its files, and its manifest and attestation in `.quantmill/`
    DIR/.staging/<manifest digest>/            a version that is being pulled
    DIR/state.json                             the record `State`
    DIR/.revoked                               the revoked version for which `watch --run-revoked` has succeeded
    DIR/.lock                                  the lock of the process that changes the folder

Every step is a rename: a kill leaves either the old or the new state, and the next pull resumes.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quantmill.client.tree import Stamps, read_records, stamps, walk
from quantmill.errors import NotEnoughSpace, RequestError, StoreError, VerificationError
from quantmill.files import keys
from quantmill.files.paths import sync
from quantmill.machine import locks

_STATE = "state.json"
_LOCK = ".lock"
_REVOKED = ".revoked"
GGUF_LINK = "model.gguf"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SLACK_BYTES = 64 << 20


class Seen(BaseModel):
    """The state of a channel at the last pull from it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seq: int = Field(ge=1, description="The channel's sequence number.")
    move: str = Field(description="Digest of the whole move: a sequence number always means the same content.")


class State(BaseModel):
    """The record that a pulled folder keeps from one pull to the next."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="The model that is pulled into the folder.")
    seen: dict[str, Seen] = Field(default={}, description="Channel -> its last state; older states are refused.")
    checked: dict[str, Stamps] = Field(default={}, description="Version -> its files' stamps when all bytes were read.")
    told: str = Field(default="", description="The version for which the command of `watch` last succeeded.")


class Place:
    """A folder that versions of one model are pulled into."""

    def __init__(self, root: Path) -> None:
        """Use the folder `root`; nothing is written before `claimed`."""
        self.root = root.absolute()

    def tree(self, digest: str) -> Path:
        """Return the folder of a version."""
        return self.root / "store" / digest

    def staging(self, digest: str) -> Path:
        """Return the folder of a version that is being pulled."""
        return self.root / ".staging" / digest

    @property
    def current(self) -> str:
        """The digest of the current version; empty: there is none yet."""
        return self._linked("current")

    @contextmanager
    def claimed(self, model: str) -> Iterator[None]:
        """Hold the folder's lock for changes by this process; a missing folder is created.

        Raises:
            RequestError: the folder holds files that no pull made, or another model.
            StoreError: another pull is at work in the folder.
        """
        if self.root.exists() and not self.root.is_dir():
            raise RequestError(f"--to: {self.root}: must be a folder")
        if not self._is_ours():
            raise RequestError(
                f"--to: {self.root}: holds other files; take an empty folder, or one that was pulled into"
            )
        self.root.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(locks.held(self.root / _LOCK, wait=False))
            except BlockingIOError as error:
                raise StoreError(f"{self.root}: another pull is at work there; try again when it is done") from error
            if not (self.root / _STATE).exists():
                self.write(State(model=model))
            if (held := self.state().model) != model:
                raise RequestError(f"--to: {self.root}: holds {held}; take another folder for {model}")
            yield

    def state(self) -> State:
        """Return the folder's record.

        Raises:
            VerificationError: the record is damaged.
        """
        try:
            # Ignores fields of newer releases.
            return State.model_validate_json((self.root / _STATE).read_bytes(), extra="ignore")
        except ValidationError as error:
            raise VerificationError(f"{self.root / _STATE}: damaged; pull into an empty folder") from error

    def write(self, state: State) -> None:
        """Write the folder's record."""
        temporary = self.root / f".{_STATE}"
        temporary.write_bytes(keys.canonical(state))
        sync(temporary)
        temporary.replace(self.root / _STATE)
        sync(self.root)

    def is_untouched(self, digest: str) -> bool:
        """Return whether names, sizes and times of a version's files are unchanged since they were read."""
        tree = self.tree(digest)
        return tree.is_dir() and stamps(tree) == self.state().checked.get(digest)

    def require_room(self, missing_bytes: int) -> None:
        """Raise NotEnoughSpace if the disk has no room for `missing_bytes` more bytes."""
        free = shutil.disk_usage(self.root).free
        if missing_bytes and free < missing_bytes + _SLACK_BYTES:
            raise NotEnoughSpace(
                f"--to: {self.root}: {free / 1e9:.2f} GB free, the pull needs {(missing_bytes + _SLACK_BYTES) / 1e9:.2f} GB"
            )

    def land(self, digest: str) -> None:
        """Rename the staging folder to the version's folder, or move its files into an existing folder.

        An existing folder is a damaged version that the staged files repair.
        """
        staged, tree = self.staging(digest), self.tree(digest)
        files, folders = walk(staged)
        for path in files:
            path.chmod(0o444)
            sync(path)
        for folder in (*folders, staged):
            sync(folder)
        tree.parent.mkdir(exist_ok=True)
        if tree.exists():
            for path in files:
                target = tree / path.relative_to(staged)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
                sync(target.parent)
            shutil.rmtree(staged)
        else:
            staged.rename(tree)
        sync(tree.parent)
        sync(self.root)

    def swap(self, digest: str) -> None:
        """Make a version current; the current version becomes `previous`, and older versions are removed.

        `model.gguf` never dangles: it links into a version's own folder, is moved after `current`, and is removed before a version
        without a single GGUF file becomes current. After a kill in between it links into the `previous` version.
        """
        file = self._gguf(digest)
        if not file:
            (self.root / GGUF_LINK).unlink(missing_ok=True)
        if (before := self.current) != digest:
            if before:
                self._link("previous", f"store/{before}")
            self._link("current", f"store/{digest}")
        if file and not self._is_link(GGUF_LINK, target := f"store/{digest}/{file}"):
            self._link(GGUF_LINK, target)
        kept = {digest, self._linked("previous")}
        for path in (self.root / "store").iterdir():
            if _DIGEST.fullmatch(path.name) and path.name not in kept:
                shutil.rmtree(path)
        if (state := self.state()).checked.keys() - kept:
            self.write(state.model_copy(update={"checked": {d: s for d, s in state.checked.items() if d in kept}}))

    def clear_staging(self, but: str) -> None:
        """Remove the staging folders of all versions except `but`, to free disk space."""
        staging = self.root / ".staging"
        for path in sorted(staging.iterdir()) if staging.exists() else ():
            if path.name != but:
                shutil.rmtree(path)

    def _is_ours(self) -> bool:
        names = {path.name for path in self.root.iterdir()} if self.root.exists() else set()
        return _STATE in names or names <= {_LOCK, f".{_STATE}"}  # no state: a pull was killed before it wrote one

    def _linked(self, name: str) -> str:
        link = self.root / name
        if not os.path.lexists(link):
            return ""
        target = str(link.readlink()) if link.is_symlink() else ""
        if not _DIGEST.fullmatch(digest := target.removeprefix("store/")):
            raise VerificationError(f"{link}: not a link to a version in {self.root / 'store'}")
        return digest

    @property
    def told_revoked(self) -> str:
        """The revoked version for which `--run-revoked` has succeeded; empty: none.

        It is a file of its own, because older releases could not read a state with a new field.
        """
        path = self.root / _REVOKED
        return path.read_text().strip() if path.exists() else ""

    def tell_revoked(self, digest: str) -> None:
        """Record that `--run-revoked` succeeded for a revoked version."""
        temporary = self.root / f"{_REVOKED}.new"
        temporary.write_text(digest)
        sync(temporary)
        temporary.replace(self.root / _REVOKED)
        sync(self.root)

    def _gguf(self, digest: str) -> str:
        """Return the path of a version's only GGUF file; empty: it has none, or several.

        A server finds several files by their own names.
        """
        found = [file.path for file in read_records(self.tree(digest))[0].manifest.files if file.path.endswith(".gguf")]
        return found[0] if len(found) == 1 else ""

    def _is_link(self, name: str, target: str) -> bool:
        link = self.root / name
        return link.is_symlink() and str(link.readlink()) == target

    def _link(self, name: str, target: str) -> None:
        temporary = self.root / f".{name}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        temporary.replace(self.root / name)
        sync(self.root)


def version_folder(path: Path) -> Path:
    """Return the folder of the current version in `path`, or `path` if nothing was pulled into it.

    Raises:
        VerificationError: `current` is not a link to a version in `path`.
    """
    place = Place(path)
    pulled_into = (path / _STATE).is_file() and place.current
    return (place.tree(place.current) if pulled_into else path).resolve()
