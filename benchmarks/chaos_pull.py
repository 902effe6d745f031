"""Kills a consumer again and again, and checks that `current` is always a verified version.

    python -m benchmarks.chaos_pull --kills 200

A store publishes one version after another. A child process pulls each version and is killed with SIGKILL on the way: half of
the times after a random time, half of the times just before one of its steps on the file system (Python's audit events count the
steps). After each kill the current version is verified byte by byte, and no finished file may be fetched again.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from quantmill.client.client import pull, resolve, verify
from quantmill.errors import QuantmillError
from quantmill.files.entries import FileEntry
from quantmill.records.manifest import Manifest
from quantmill.store.folder import FolderObjects
from quantmill.store.objects import OnBytes, ignore
from quantmill.store.store import Store
from tests.published import publish, stable

STEPS = ("os.rename", "os.symlink", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "open")


class Counted(FolderObjects):
    """A folder store that logs the begin and the end of each file's transfer, and delays each transfer."""

    def __init__(self, root: Path, log: Path) -> None:
        super().__init__(root)
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def fetch_file(
        self, key: str, entry: FileEntry, target: Path, on_bytes: OnBytes = ignore, copy: bool = False
    ) -> None:
        os.write(self._log, f"begin {key}\n".encode())
        time.sleep(random.uniform(0, 0.005))
        super().fetch_file(key, entry, target, on_bytes, copy)
        os.write(self._log, f"done {key}\n".encode())


def child(store: Path, to: Path, log: Path, step: int) -> None:
    """Pull the stable version and exit; die just before step number `step` on the file system (0: never)."""
    taken = 0

    def count(event: str, _: Any) -> None:
        nonlocal taken
        if event in STEPS:
            taken += 1
            if taken == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    code = 1
    try:
        held = Store(Counted(store, log))
        pull(held, resolve(held, "m", "stable"), to)
        log.with_name("steps").write_text(str(taken))
        code = 0
    finally:
        os._exit(code)


def attempt(store: Path, to: Path, log: Path, step: int = 0, after_s: float = 0.0) -> bool:
    """Run a child that is killed before a step or after some seconds; return whether it finished before."""
    if not (pid := os.fork()):
        child(store, to, log, step)
    if after_s:
        time.sleep(after_s)
        os.kill(pid, signal.SIGKILL)
    ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if ended not in (0, -signal.SIGKILL):
        raise SystemExit("a pull failed that nobody killed")
    return ended == 0


def fetched_again(log: Path) -> int:
    """Return how many transfers began for files that had been transferred completely."""
    done: set[str] = set()
    again = 0
    for line in log.read_text().splitlines() if log.exists() else []:
        word, key = line.split()
        again += word == "begin" and key in done
        if word == "done":
            done.add(key)
    return again


def met(to: Path) -> str:
    """Return the stage of a pull at which the kill came."""
    if any((to / ".staging").glob("*/*")):
        return "in mid-download"
    trees = {path.name for path in (to / "store").glob("*")}
    old = {link.readlink().name for link in (to / "current", to / "previous") if link.is_symlink()}
    return "between landing and the last clean-up" if trees - old or len(trees) > 2 else "before or after"


def fault(to: Path, allowed: list[Manifest]) -> str:
    """Return what is wrong with the served version, or an empty string.

    `allowed` has the version that was served before and the next version.
    """
    if not (to / "current").is_symlink():
        return "nothing is served" if len(allowed) > 1 else ""
    try:
        return "" if verify(to) in allowed else "another version is served"
    except QuantmillError as error:
        return str(error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    began, kills, faults, again = time.monotonic(), Counter[str](), list[str](), 0
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        to, store, allowed = base / "to", Store(FolderObjects(base / "store")), list[Manifest]()
        steps, whole_s, versions = 100, 0.05, 0
        while kills.total() < options.kills:
            versions += 1
            made = publish(store, base / "made", seed=versions, numbers=random.choice((1000, 2_000_000)))
            stable(store, made)
            allowed, log = [*allowed[-1:], made], base / f"log-{versions}"
            for _ in range(random.randint(0, 12)):
                step, after_s = random.choice(((random.randint(1, steps), 0.0), (0, random.uniform(0.001, whole_s))))
                if not attempt(base / "store", to, log, step, after_s):
                    kills[met(to)] += 1
                    faults += filter(None, [fault(to, allowed)])
            start = time.monotonic()
            if not attempt(base / "store", to, log) or verify(to) != made:
                raise SystemExit("a pull that nobody disturbed does not serve the newest version")
            whole_s, steps = max(0.02, time.monotonic() - start), int((base / "steps").read_text())
            again += fetched_again(log)
    print(json.dumps({
        "kills": kills.total(), "of these": dict(kills), "versions": versions, "current not verified": len(faults),
        "faults": faults[:5], "finished files fetched again": again, "seconds": round(time.monotonic() - began, 1),
    }, indent=2))  # fmt: skip


if __name__ == "__main__":
    main()
