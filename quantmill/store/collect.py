"""Garbage collection: mark what versions, channels, stage results and leases need, sweep the old rest.

A version stays while a channel's history names it, while it is younger than the retention, or while it is among the newest
of its variant. Every digest that a record mentions counts as needed, so records of other releases keep the objects they name.
A record that cannot be read stops the collection: nothing is removed on a guess.
"""

import re
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from quantmill.errors import StoreError
from quantmill.store import channels
from quantmill.store.layout import MODELS, digest_in, manifest_key
from quantmill.store.leases import leased, sweeping
from quantmill.store.objects import Listed, read_listed
from quantmill.store.store import Store

_DIGEST = re.compile(rb"[0-9a-f]{64}")
_RECORDS = ("stages/", "outbox/")
_BY_DIGEST = {"attestations": "attestations/", "manifests": "manifests/", "blobs": "blobs/"}
_ROUND = 500
UNFINISHED = "unfinished writes"
SIDE_RECORDS = "side records"
KINDS = ("versions", SIDE_RECORDS, "stage results", *_BY_DIGEST, "leases", UNFINISHED)


class Rules(NamedTuple):
    """How long objects are kept."""

    grace_s: float = 48 * 3600.0
    """Younger objects are kept; at least twice the time of the longest publish."""
    retention_s: float = 90 * 86400.0
    """Versions that no channel names are kept for this time."""
    newest: int = 3
    """Number of newest versions of each variant that are kept at any age."""
    unfinished_s: float = 48 * 3600.0
    """Unfinished writes are removed after this time."""


class Garbage(NamedTuple):
    """An object that nothing needs."""

    kind: str
    listed: Listed


def find(store: Store, rules: Rules) -> list[Garbage]:
    """Return the objects that a collection would remove now, in the order of removal.

    Raises:
        StoreError: a record cannot be read.
        VerificationError: a record is damaged.
    """
    return list(_Marks(store, rules).garbage())


def collect(store: Store, rules: Rules) -> list[Garbage]:
    """Remove unneeded objects and return them; objects that others begin to use meanwhile stay.

    Raises:
        StoreError: another collection is at work, or a record cannot be read.
        VerificationError: a record is damaged.
        DiskFull: the disk has no room for the record of a sweep, and the reserve is gone.
    """
    marks = _Marks(store, rules)
    waiting, removed = list(marks.garbage()), list[Garbage]()
    for rest in [garbage for garbage in waiting if garbage.kind == UNFINISHED]:
        _remove(store, rest)  # needs no sweep, because nobody can start to use it; frees room for the record of a sweep
        removed.append(rest)
        waiting.remove(rest)
    while waiting:
        with sweeping(store.objects) as time_left:
            needed, done = marks.look(), 0
            for garbage in waiting[:_ROUND]:
                if not time_left():
                    break
                done += 1
                if needed.allows(garbage):
                    _remove(store, garbage)
                    removed.append(garbage)
        if not done:
            raise StoreError(
                f"{store.uri}: its records cannot be read within the time of a sweep; nothing more is removed"
            )
        del waiting[:done]
    return removed


def _remove(store: Store, garbage: Garbage) -> None:
    if garbage.kind == UNFINISHED:
        store.objects.drop_unfinished(garbage.listed)
    else:
        store.objects.delete(garbage.listed.key)


class _Needed(NamedTuple):
    """The digests that are needed at one moment, and the pointers that are not."""

    digests: set[str]
    pointers: list[Garbage]

    def allows(self, garbage: Garbage) -> bool:
        """Return whether an object may be removed."""
        if garbage.kind in _BY_DIGEST:
            return digest_in(garbage.listed.key) not in self.digests
        return garbage.kind == UNFINISHED or garbage in self.pointers


class _Marks:
    """Finds out what is needed; a second look reads only new records."""

    def __init__(self, store: Store, rules: Rules) -> None:
        self._store, self._rules = store, rules
        self._read: dict[Listed, set[str]] = {}

    def garbage(self) -> Iterator[Garbage]:
        """Yield unneeded objects, pointers before their targets: after a kill no pointer lacks its target."""
        needed, young = self.look(), time.time() - self._rules.grace_s
        for listed in self._store.objects.unfinished():
            if listed.modified_at < time.time() - self._rules.unfinished_s:
                yield Garbage(UNFINISHED, listed)
        yield from needed.pointers
        for kind, folder in _BY_DIGEST.items():
            for listed in self._store.objects.under(folder):
                if digest_in(listed.key) not in needed.digests and listed.modified_at < young:
                    yield Garbage(kind, listed)

    def look(self) -> _Needed:
        """Return what is needed now.

        Leases are read first: when a lease is released, a record already names what the lease protected.
        """
        now = time.time()
        digests, expired = leased(self._store.objects)
        kept, pointers, beside = self._versions(digests, now)
        for _, digest in kept:
            digests |= self._digests(Listed(manifest_key(digest), 0, 0.0)) | {digest}
        for listed in beside:
            variant, _, rest = listed.key.partition("/records/")
            if (variant, rest.partition("/")[0]) in kept:
                digests |= self._digests(listed)
            elif (
                listed.modified_at < now - self._rules.grace_s
            ):  # the version of a younger record may be published later
                pointers.append(Garbage(SIDE_RECORDS, listed))
        oldest = now - self._store.stage_s - self._rules.grace_s
        for folder in _RECORDS:
            for listed in self._store.objects.under(folder):
                if folder == "stages/" and listed.modified_at < oldest:
                    pointers.append(Garbage("stage results", listed))
                else:
                    digests |= self._digests(listed)
        return _Needed(digests, [*pointers, *(Garbage("leases", listed) for listed in expired)])

    def _versions(self, leased_now: set[str], now: float) -> tuple[set[tuple[str, str]], list[Garbage], list[Listed]]:
        """Return the versions to keep (folder and digest), the pointers to remove, and all side records."""
        pointers, beside, models = defaultdict[str, list[Listed]](list), list[Listed](), set[str]()
        for listed in self._store.objects.under(MODELS):
            folder, _, _ = listed.key.rpartition("/")
            models.add(listed.key.split("/")[1])
            if folder.endswith("/versions"):
                pointers[folder.removesuffix("/versions")].append(listed)
            elif listed.key.split("/")[3:4] == ["records"]:
                beside.append(listed)
        named = {
            digest
            for model in models
            for channel in channels.channels(self._store, model)
            for move in channel.moves
            for digest in move.variants.values()
        } | leased_now
        kept, dead = set[tuple[str, str]](), list[Garbage]()
        oldest = now - max(self._rules.retention_s, self._rules.grace_s)
        for folder, held in pointers.items():
            held.sort(key=lambda listed: listed.modified_at, reverse=True)
            for place, listed in enumerate(held):
                digest = digest_in(listed.key)
                if place < self._rules.newest or listed.modified_at > oldest or digest in named:
                    kept.add((folder, digest))
                else:
                    dead.append(Garbage("versions", listed))
        return kept, dead, beside

    def _digests(self, listed: Listed) -> set[str]:
        """Return every digest that a record mentions."""
        if listed not in self._read:
            if listed.key.startswith("manifests/"):
                self._store.manifest(digest_in(listed.key))  # raises if the manifest is damaged
            held = read_listed(self._store.objects, listed.key)
            found = _DIGEST.findall(held.data) if held else []
            self._read[listed] = {digest.decode() for digest in found}
        return self._read[listed]
