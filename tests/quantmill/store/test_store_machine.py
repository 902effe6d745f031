"""The store against a model in memory; hypothesis chooses the acts of publishers and collectors.

Some publishers are killed.
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from quantmill.errors import NotFound
from quantmill.files import keys
from quantmill.files.entries import FileEntry
from quantmill.records.artifact import StageResult
from quantmill.records.manifest import Manifest, Revocation
from quantmill.store import channels
from quantmill.store.collect import Rules, collect
from quantmill.store.folder import FolderObjects
from quantmill.store.layout import blob_key
from quantmill.store.objects import Objects
from quantmill.store.s3 import S3Objects
from quantmill.store.store import Store
from tests.samples import manifest, version

CONTENTS = st.integers(0, 3)
VARIANTS = st.sampled_from(["a", "b"])
KEYS = st.sampled_from(["1" * 64, "2" * 64])
STEPS = st.integers(0, 12)


class _Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, nothing is written after it."""


class _Mortal:
    """Objects whose user dies before or after the n-th write; after it, only the answer is lost."""

    def __init__(self, objects: Objects, dies_at: int, after: bool) -> None:
        self._objects, self._left, self._after = objects, dies_at, after

    def __getattr__(self, name: str) -> object:
        found = getattr(self._objects, name)
        if name not in ("create", "replace", "swap", "delete", "add_file"):
            return found

        def write(*arguments: object) -> object:
            self._left -= 1
            if self._left < 0 and not self._after:
                raise _Killed
            answer = found(*arguments)
            if self._left < 0:
                raise _Killed
            return answer

        return write


class StoreMachine(RuleBasedStateMachine):
    """What the model knows: acknowledged versions and moves, stage results, revocations."""

    place: Callable[[], Objects]

    @initialize()
    def open(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="machine-"))
        self.objects = type(self).place()
        self.store = Store(self.objects)
        self.versions: dict[tuple[str, str], Manifest] = {}
        self.attempted: set[str] = set()
        self.results: dict[str, StageResult] = {}
        self.moves: list[dict[str, str]] = []
        self.revoked: set[tuple[str, str]] = set()

    def add(self, store: Store, content: int) -> tuple[FileEntry, ...]:
        folder = self.folder / str(content)
        if not folder.exists():
            folder.mkdir()
            (folder / "shared").write_bytes(b"tokenizer")
            (folder / "w").write_bytes(b"weights %d" % content)
        copy = Path(tempfile.mkdtemp(dir=self.folder)) / "out"
        shutil.copytree(folder, copy)
        return store.add_folder(copy)

    def publish(self, store: Store, variant: str, content: int) -> bool:
        made = manifest(self.add(store, content), name=f"m/{variant}")
        self.attempted.add(made.digest)
        fresh = store.commit(made, version(made, variant=variant))
        self.versions[variant, made.digest] = made
        return fresh

    @rule(variant=VARIANTS, content=CONTENTS)
    def publishes(self, variant: str, content: int) -> None:
        """Faults 7 and 12: a version is new once, whoever and however often it is published."""
        known = {held.manifest for held in self.store.versions("m", variant)}
        fresh = self.publish(Store(self.objects), variant, content)
        now = {held.manifest for held in self.store.versions("m", variant)}
        assert fresh == (now != known)
        assert len(now - known) <= 1

    @rule(variant=VARIANTS, content=CONTENTS, dies_at=STEPS, after=st.booleans())
    def is_killed_while_publishing(self, variant: str, content: int, dies_at: int, after: bool) -> None:
        """Fault 1: killed at every write; a version may exist, and must exist once it was acknowledged."""
        mortal = Store(_Mortal(self.objects, dies_at, after))  # type: ignore[arg-type]
        try:
            self.publish(mortal, variant, content)
        except _Killed:
            self._stop_renewal(mortal)

    @rule(key=KEYS, content=CONTENTS)
    def records(self, key: str, content: int) -> None:
        """Fault 12: the first complete result of a key wins, the others adopt it."""
        store = Store(self.objects)
        mine = StageResult(stage="artifact", key=key, blobs=self.add(store, content), value={}, made_at=time.time())
        before = self.store.look_up("artifact", key)
        adopted = store.record(mine)
        assert adopted == (before or mine)
        self.results[key] = adopted

    @rule(variant=VARIANTS, data=st.data())
    def promotes(self, variant: str, data: st.DataObject) -> None:
        """Fault 13: each move adds one to the sequence and keeps the other variants."""
        known = sorted(digest for of, digest in self.versions if of == variant)
        digest = data.draw(st.sampled_from([*known, "0" * 64]))
        if digest not in known or (variant, digest) in self.revoked:
            with pytest.raises(NotFound):
                channels.promote(self.store, "m", "stable", {variant: digest}, "?")
            return
        moved = channels.promote(self.store, "m", "stable", {variant: digest}, "?")
        self._moved(moved.current.variants, (self.moves[-1] if self.moves else {}) | {variant: digest})

    @precondition(lambda self: self.versions)
    @rule(data=st.data())
    def is_revoked(self, data: st.DataObject) -> None:
        variant, digest = data.draw(st.sampled_from(sorted(self.versions)))
        withdrawn = Revocation(manifest=digest, reason="rambles", made_at=1.0)
        assert self.store.revoke("m", variant, withdrawn) == ((variant, digest) not in self.revoked)
        self.revoked.add((variant, digest))

    @precondition(lambda self: len(self.moves) > 1)
    @rule(data=st.data())
    def rolls_back(self, data: st.DataObject) -> None:
        to = data.draw(st.integers(1, len(self.moves)))
        before = self.moves[to - 1]
        if self.revoked & set(before.items()):
            return
        moved = channels.roll_back(self.store, "m", "stable", "?", to=to)
        self._moved(moved.current.variants, before)

    @precondition(lambda self: self.versions)
    @rule(data=st.data())
    def loses_a_blob_and_mends_it(self, data: st.DataObject) -> None:
        """A lost blob undoes a stage result; publishing again brings the blob back."""
        variant, digest = data.draw(st.sampled_from(sorted(self.versions)))
        files = self.versions[variant, digest].files
        self.objects.delete(blob_key(files[1].sha256))
        for key, held in self.results.items():
            gone = files[1].sha256 in {blob.sha256 for blob in held.blobs}
            assert (self.store.look_up("artifact", key) is None) == gone
        content = int((self.folder / next(p.name for p in self.folder.iterdir() if self._is(p, files))).name)
        self.add(Store(self.objects), content)

    @rule(newest=st.integers(0, 2))
    def collects(self, newest: int) -> None:
        """Fault 14: what goes is only what no channel named, no stage result and no lease needs."""
        collect(Store(self.objects), Rules(grace_s=0, retention_s=0, newest=newest))
        named = {digest for move in self.moves for digest in move.values()}
        for variant in ("a", "b"):
            held = {one.manifest for one in self.store.versions("m", variant)}
            for of, digest in list(self.versions):
                if of == variant and digest not in held:
                    assert digest not in named, "a channel may go back to it"
                    del self.versions[of, digest]

    @invariant()
    def nothing_acknowledged_is_lost(self) -> None:
        for variant in ("a", "b"):
            held = {one.manifest for one in self.store.versions("m", variant)}
            assert {digest for of, digest in self.versions if of == variant} <= held <= self.attempted
            for digest in held:
                made = self.store.manifest(digest)
                assert all(self.objects.intact(blob_key(entry.sha256), entry) for entry in made.files)
        for key, held_result in self.results.items():
            assert self.store.look_up("artifact", key) == held_result

    @invariant()
    def the_channel_is_what_was_moved(self) -> None:
        channel = channels.read_channel(self.store, "m", "stable")
        assert (channel.seq if channel else 0) == len(self.moves)
        if channel:
            assert [move.variants for move in channel.moves] == self.moves

    def _moved(self, got: dict[str, str], wanted: dict[str, str]) -> None:
        assert got == wanted
        self.moves.append(wanted)

    @staticmethod
    def _is(folder: Path, files: tuple[FileEntry, ...]) -> bool:
        return (folder / "w").is_file() and keys.file_sha256(folder / "w") == files[1].sha256

    @staticmethod
    def _stop_renewal(store: Store) -> None:
        """A dead process renews no lease."""
        if store.leases._renewal:
            store.leases._renewal.cancel()

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)


def run(place: Callable[[], Objects], examples: int, steps: int) -> None:
    machine = type("Machine", (StoreMachine,), {"place": staticmethod(place)})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_folder(tmp_path: Path) -> None:
    run(lambda: FolderObjects(Path(tempfile.mkdtemp(dir=tmp_path))), examples=15, steps=20)


def test_a_bucket(s3: str) -> None:
    client = S3Objects("bucket")._client
    run(lambda: S3Objects("bucket", f"machine/{time.monotonic_ns()}", client), examples=3, steps=10)
