"""Leases: they protect the blobs of a publish in progress from garbage collection.

A publish does not send a blob that the store already holds, so it may rely on a blob that no record names yet. The publish first
writes `leases/<id>.json` and then looks for a sweep; a sweep first writes `sweep.json` and then reads the leases. So the second
of the two sees the first: the publish waits until the sweep ends, the sweep keeps leased blobs. Clocks may differ by a minute.
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
    expires_at: float = Field(description="Seconds since 1970; the holder renews the lease while it lives.")


class _Sweep(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    expires_at: float


class Leases:
    """The lease of one `Store`: a thread renews it as long as it holds any digest."""

    def __init__(self, objects: Objects) -> None:
        """Use `objects`; the first `hold` writes the lease."""
        self._objects, self._key = objects, f"{_FOLDER}{secrets.token_hex(8)}.json"
        self._held: Counter[str] = Counter()
        self._changing = threading.RLock()
        self._renewed_at = 0.0
        self._renewal: threading.Timer | None = None

    def hold(self, digests: Iterable[str]) -> None:
        """Protect digests from collection until `release`, or for 15 minutes after this process dies."""
        with self._changing:
            self._held.update(set(digests))
            self._renew()
        began, first = time.monotonic(), b""
        while sweep := _sweep_in_force(self._objects):
            if sweep != first:
                began, first = time.monotonic(), sweep
            if time.monotonic() - began > SWEEP_S:
                return  # no sweep takes longer, whatever its clock says, so this sweep has ended
            time.sleep(0.05)

    def release(self, digests: Iterable[str]) -> None:
        """Stop protecting digests, because a record names them now or nothing needs them."""
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
        """Hold digests during the block."""
        kept = set(digests)
        self.hold(kept)
        try:
            yield
        finally:
            self.release(kept)

    def require(self) -> None:
        """Raise StoreError if the lease was not renewed in time: blobs may have been removed."""
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
                self._renew_in(LEASE_S / 15)  # the next try, if this renewal fails
                with suppress(StoreError, DiskFull, OSError):  # `require` reports an expired lease
                    self._renew()

    def _write(self) -> None:
        now = time.time()
        lease = _Lease(digests=tuple(sorted(self._held)), expires_at=now + LEASE_S)
        self._objects.replace(self._key, keys.canonical(lease))
        self._renewed_at = now


def leased(objects: Objects) -> tuple[set[str], list[Listed]]:
    """Return the digests of all leases in force, and the expired leases.

    Raises:
        StoreError: a lease cannot be read, so its digests are unknown.
    """
    digests, expired = set[str](), list[Listed]()
    for listed in objects.under(_FOLDER):
        held = read_listed(objects, listed.key)
        if held is None:
            continue  # released since the listing
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
    """Keep new publishes waiting during the block; lend a function that says whether time is left.

    Raises:
        StoreError: another collection is sweeping.
        DiskFull: the disk has no room for the record of the sweep.
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
    """Write the record of a sweep, on a full disk in place of the reserve; False: another sweep was first."""
    try:
        return objects.swap(_SWEEP, data, tag) if tag else objects.create(_SWEEP, data)
    except DiskFull:
        if not objects.release_reserve():
            raise
        return objects.swap(_SWEEP, data, tag) if tag else objects.create(_SWEEP, data)


def _sweep_in_force(objects: Objects) -> bytes:
    """Return the record of the sweep in force; empty: there is none."""
    held = objects.read(_SWEEP)
    return held.data if held and _in_force(held.data) else b""


def _in_force(data: bytes) -> bool:
    try:
        return _Sweep.model_validate_json(data, extra="ignore").expires_at > time.time()
    except ValidationError:
        return False  # damaged: if its collection still runs, it ends within its time limit


def _is_impossible(sweep: bytes) -> bool:
    """Return whether a sweep's expiry is further away than any correct clock gives.

    Such a record would block all other collections.
    """
    return _Sweep.model_validate_json(sweep, extra="ignore").expires_at > time.time() + SWEEP_S + _CLOCKS_S
