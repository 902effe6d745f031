"""Leases: what a publish in progress uses, garbage collection leaves alone.

A blob that is there already is not sent again, so a publish may come to rely on one that nothing refers to yet. It says so
first, in `leases/<id>.json`, and only then looks whether a sweep is on; a sweep says so first, in `sweep.json`, and only then
reads the leases. Whoever is second sees the other: the publish waits for the sweep's end, the sweep leaves what is leased.
Clocks may differ by a minute.
"""

import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quantmill.errors import DiskFull, StoreError
from quantmill.files import keys
from quantmill.store.objects import Listed, Objects, read_listed

LEASE_S = 900.0
SWEEP_S = 120.0
_CLOCKS_S = 60.0
_FOLDER, _SWEEP = "leases/", "sweep.json"


class _Lease(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    digests: tuple[str, ...] = Field(description="Blobs and manifests in use.")
    expires_at: float = Field(description="Seconds since 1970; renewed while its holder lives.")


class _Sweep(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    expires_at: float


class Leases:
    """What one store object holds: one lease, renewed by a thread for as long as anything is in it."""

    def __init__(self, objects: Objects) -> None:
        """Nothing is written before the first hold."""
        self._objects, self._key = objects, f"{_FOLDER}{secrets.token_hex(8)}.json"
        self._held: Counter[str] = Counter()
        self._changing = threading.RLock()
        self._renewed_at = 0.0
        self._renewal: threading.Timer | None = None

    def hold(self, digests: Iterable[str]) -> None:
        """Keep these from collection until `release`, or until this process has been dead for 15 minutes."""
        with self._changing:
            self._held.update(set(digests))
            self._renew()
        began, first = time.monotonic(), b""
        while sweep := _sweep_in_force(self._objects):
            if sweep != first:
                began, first = time.monotonic(), sweep
            if time.monotonic() - began > SWEEP_S:
                return  # it has ended: none is at work for longer, whatever its clock said
            time.sleep(0.05)

    def release(self, digests: Iterable[str]) -> None:
        """Hold these no longer: a record refers to them, or nobody wants them."""
        with self._changing:
            self._held.subtract({digest for digest in digests if self._held[digest] > 0})
            self._held = +self._held
            if not self._renewal:
                return
            if self._held:
                self._write()
            else:
                self._renewal.cancel()
                self._renewal = None
                self._objects.delete(self._key)

    @contextmanager
    def holding(self, digests: Iterable[str]) -> Iterator[None]:
        """Hold for the time of a block."""
        kept = set(digests)
        self.hold(kept)
        try:
            yield
        finally:
            self.release(kept)

    def require(self) -> None:
        """Raise StoreError where this process slept through its lease: what it looked at may be gone."""
        if time.time() - self._renewed_at > LEASE_S:
            raise StoreError(
                f"{self._objects.uri}: this process was stopped for more than {LEASE_S:.0f} s; run it again"
            )

    def _renew(self) -> None:
        self._write()
        self._renew_in(LEASE_S / 3)

    def _renew_in(self, seconds: float) -> None:
        if self._renewal:
            self._renewal.cancel()
        self._renewal = threading.Timer(seconds, self._renew_again)
        self._renewal.daemon = True
        self._renewal.start()

    def _renew_again(self) -> None:
        with self._changing:
            if self._held:
                self._renew_in(LEASE_S / 15)  # whatever comes of this one: a store is away for a moment
                with suppress(StoreError, DiskFull, OSError):  # `require` tells whoever relies on it
                    self._renew()

    def _write(self) -> None:
        now = time.time()
        lease = _Lease(digests=tuple(sorted(self._held)), expires_at=now + LEASE_S)
        self._objects.replace(self._key, keys.canonical(lease))
        self._renewed_at = now


def leased(objects: Objects) -> tuple[set[str], list[Listed]]:
    """Return what leases in force name, and the leases that have expired.

    Raises:
        StoreError: a lease cannot be read; what it protects is not known.
    """
    digests, expired = set[str](), list[Listed]()
    for listed in objects.under(_FOLDER):
        held = read_listed(objects, listed.key)
        if held is None:
            continue  # released since
        try:
            lease = _Lease.model_validate_json(held.data, extra="ignore")
        except ValidationError as error:
            raise StoreError(f"{objects.uri}/{listed.key}: not a lease; nothing more is removed") from error
        if lease.expires_at + _CLOCKS_S < time.time():
            expired.append(listed)
        else:
            digests.update(lease.digests)
    return digests, expired


@contextmanager
def sweeping(objects: Objects) -> Iterator[Callable[[], bool]]:
    """Let nobody begin a publish for the time of a block; lends a function that says whether there still is time.

    Raises:
        StoreError: another collection is sweeping.
        DiskFull: there is no room for the record of it.
    """
    deadline = time.monotonic() + SWEEP_S - _CLOCKS_S
    mine = _Sweep(id=secrets.token_hex(8), expires_at=time.time() + SWEEP_S)
    held, data = objects.read(_SWEEP), keys.canonical(mine)
    taken = held is not None and _in_force(held.data) and not _is_impossible(held.data)
    if taken or not _announce(objects, data, held.tag if held else ""):
        raise StoreError(f"{objects.uri}: another collection is at work; try again in {SWEEP_S:.0f} s")
    try:
        yield lambda: time.monotonic() < deadline
    finally:
        held = objects.read(_SWEEP)
        if held and held.data == data:
            objects.delete(_SWEEP)
        objects.keep_reserve()


def _announce(objects: Objects, data: bytes, tag: str) -> bool:
    """Write the record of a sweep; on a full disk into the room that is kept for it. False where another was first."""
    try:
        return objects.swap(_SWEEP, data, tag) if tag else objects.create(_SWEEP, data)
    except DiskFull:
        if not objects.release_reserve():
            raise
        return objects.swap(_SWEEP, data, tag) if tag else objects.create(_SWEEP, data)


def _sweep_in_force(objects: Objects) -> bytes:
    """Return the record of a sweep in force, or nothing."""
    held = objects.read(_SWEEP)
    return held.data if held and _in_force(held.data) else b""


def _in_force(data: bytes) -> bool:
    try:
        return _Sweep.model_validate_json(data, extra="ignore").expires_at > time.time()
    except ValidationError:
        return False  # damaged: its collection, if it lives, ends within its time


def _is_impossible(sweep: bytes) -> bool:
    """Return whether a clock that was wrong by more than is allowed wrote it: that collection would hold up all others."""
    return _Sweep.model_validate_json(sweep, extra="ignore").expires_at > time.time() + SWEEP_S + _CLOCKS_S
