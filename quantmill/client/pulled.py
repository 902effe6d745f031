"""The folder that versions are pulled into, as it lies on the disk.

    DIR/current -> store/<manifest digest>     what is served; swapped in one step
    DIR/previous -> store/<manifest digest>    what was current before
    DIR/model.gguf -> store/<digest>/FILE      the GGUF file of what is served, under a name that stays; none where there are several
    DIR/store/<manifest digest>/               a version: its files, and what it is known by in `.quantmill/`
    DIR/.staging/<manifest digest>/            a version on its way
    DIR/state.json                             what was seen and checked: `State`
    DIR/.revoked                               the revoked version that the command of `watch --run-revoked` ended well for
    DIR/.lock                                  held by whoever changes any of this

Every step is a rename, so that a kill leaves either what was or what comes, and the next pull goes on from there.
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
    """What a channel held when it was last pulled from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seq: int = Field(ge=1, description="Its sequence number.")
    move: str = Field(description="Digest of the whole move: one number is one content.")


class State(BaseModel):
    """What a pulled folder remembers from one pull to the next."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="The model that is pulled here.")
    seen: dict[str, Seen] = Field(default={}, description="Channel -> what it held: an older state is refused.")
    checked: dict[str, Stamps] = Field(default={}, description="Version -> its files as they were when all was read.")
    told: str = Field(default="", description="The version that the command of `watch` last ended well for.")


class Place:
    """One such folder."""

    def __init__(self, root: Path) -> None:
        """Look at the folder `root`; nothing is written before it is claimed."""
        self.root = root.absolute()

    def tree(self, digest: str) -> Path:
        """Return the folder of a version."""
        return self.root / "store" / digest

    def staging(self, digest: str) -> Path:
        """Return the folder of a version on its way."""
        return self.root / ".staging" / digest

    @property
    def current(self) -> str:
        """The digest of the version that is served; empty: none yet."""
        return self._linked("current")

    @contextmanager
    def claimed(self, model: str) -> Iterator[None]:
        """Hold the folder, made where it is missing, for changes by this process alone.

        Raises:
            RequestError: it holds something that no pull left there, or another model.
            StoreError: another pull is at work there.
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
        """Return what is remembered.

        Raises:
            VerificationError: the record is damaged.
        """
        try:
            # A newer release may have pulled here: what it wrote beyond this is passed over.
            return State.model_validate_json((self.root / _STATE).read_bytes(), extra="ignore")
        except ValidationError as error:
            raise VerificationError(f"{self.root / _STATE}: damaged; pull into an empty folder") from error

    def write(self, state: State) -> None:
        """Remember a state."""
        temporary = self.root / f".{_STATE}"
        temporary.write_bytes(keys.canonical(state))
        sync(temporary)
        temporary.replace(self.root / _STATE)
        sync(self.root)

    def is_untouched(self, digest: str) -> bool:
        """Return whether a version lies there with the names, sizes and times that it had when every byte was read."""
        tree = self.tree(digest)
        return tree.is_dir() and stamps(tree) == self.state().checked.get(digest)

    def require_room(self, missing_bytes: int) -> None:
        """Raise NotEnoughSpace where so many bytes more would fill the disk."""
        free = shutil.disk_usage(self.root).free
        if missing_bytes and free < missing_bytes + _SLACK_BYTES:
            raise NotEnoughSpace(
                f"--to: {self.root}: {free / 1e9:.2f} GB free, the pull needs {(missing_bytes + _SLACK_BYTES) / 1e9:.2f} GB"
            )

    def land(self, digest: str) -> None:
        """Make what was staged the tree of its version; where that tree was damaged, put the staged files into it."""
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
        """Serve a version; what was served becomes `previous`, and older ones go.

        `model.gguf` never dangles: it names a version's own folder, is moved after `current`, and goes before a version without
        such a file is served. After a kill in between it names what is `previous`.
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
        """Drop what was staged of other versions: it was given up, and the disk may be needed."""
        staging = self.root / ".staging"
        for path in sorted(staging.iterdir()) if staging.exists() else ():
            if path.name != but:
                shutil.rmtree(path)

    def _is_ours(self) -> bool:
        names = {path.name for path in self.root.iterdir()} if self.root.exists() else set()
        return _STATE in names or names <= {_LOCK, f".{_STATE}"}  # the latter: killed before it had a state

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
        """The revoked version that the command for that ended well for; a file of its own, since older releases read the state."""
        path = self.root / _REVOKED
        return path.read_text().strip() if path.exists() else ""

    def tell_revoked(self, digest: str) -> None:
        """Remember that the command for revoked versions ended well."""
        temporary = self.root / f"{_REVOKED}.new"
        temporary.write_text(digest)
        sync(temporary)
        temporary.replace(self.root / _REVOKED)
        sync(self.root)

    def _gguf(self, digest: str) -> str:
        """Return the path of a version's GGUF file; empty where it has none, or several, which a server finds by their names."""
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
    """Return the folder of the version that `path` means: what is current there, or `path` where nothing is pulled into it.

    Raises:
        VerificationError: what is current there is no version of that place.
    """
    place = Place(path)
    pulled_into = (path / _STATE).is_file() and place.current
    return (place.tree(place.current) if pulled_into else path).resolve()
