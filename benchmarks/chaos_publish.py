"""Kills publishers at every boundary, beside readers that must see no fault and a garbage collector.

    python -m benchmarks.chaos_publish --kills 500              both stores, a folder and SeaweedFS
    python -m benchmarks.chaos_publish --kills 40 --place folder

A publisher counts its boundaries (`boundaries.py` defines them) and sends itself SIGKILL at a random boundary. Every fifth
publisher is killed from outside at a random time instead.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.boundaries import lend_place, open_place
from quantmill.errors import QuantmillError
from quantmill.store import channels, leases
from quantmill.store.collect import Rules, collect
from quantmill.store.store import Store
from tests.samples import manifest, version

FORK = multiprocessing.get_context("fork")  # a new publisher starts in milliseconds: all is imported already
FILES = 4
GRACE_S = 20.0
leases.LEASE_S, leases._CLOCKS_S = (
    10.0,
    2.0,
)  # short, so that the garbage of killed publishers is collected within the run


def publisher(place: str, folder: Path, seed: int, dies_at: int) -> None:
    """Publish until boundary number `dies_at`; note each version and each move after its acknowledgement."""
    chance, passed = random.Random(seed), 0

    def boundary(name: str) -> None:
        nonlocal passed
        passed += 1
        if passed == dies_at:
            note(folder / "kills", name)
            os.kill(os.getpid(), signal.SIGKILL)

    store, work = open_place(place, boundary), folder / f"work-{seed}"
    while True:
        variant = f"v{chance.randrange(8)}"
        made = manifest(store.add_folder(_artifact(work, chance)), name=f"m/{variant}")
        store.commit(made, version(made, made_at=time.time(), variant=variant))
        note(folder / "acknowledged", json.dumps([variant, made.digest]))
        channels.promote(store, "m", "stable", {variant: made.digest}, "published")
        note(folder / "moves", variant)
        shutil.rmtree(work)


def _artifact(work: Path, chance: random.Random) -> Path:
    """Make a folder of files: two that all versions share, one that some share, and one of its own.

    In one of ten folders the last file is long.
    """
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    (work / "config.json").write_bytes(b"{}" * 500)
    (work / "tokenizer.json").write_bytes(b"tokens" * 20_000)
    (work / "shared.safetensors").write_bytes(random.Random(chance.randrange(20)).randbytes(100_000))
    length = 9 << 20 if chance.random() < 0.1 else 100_000
    (work / "model.safetensors").write_bytes(chance.randbytes(length))
    return work


def reader(place: str, folder: Path, seed: int) -> None:
    """Read the channel's version and a random version until told to stop; note every read and every fault."""
    chance, store = random.Random(seed), open_place(place)
    while not (folder / "stop").exists():
        out = folder / f"read-{seed}"
        try:
            channel = channels.read_channel(store, "m", "stable")
            variant = f"v{chance.randrange(8)}"
            named = [held.manifest for held in store.versions("m", variant)]
            digest = channel.current.variants.get(variant, "") if channel else ""
            for one in {digest, chance.choice(named or [""])} - {""}:
                store.fetch(store.manifest(one).files, out)
                note(folder / "reads", one)
        except QuantmillError as error:
            note(folder / "faults", f"{type(error).__name__}: {error}")
        shutil.rmtree(out, ignore_errors=True)


def collector(place: str, folder: Path) -> None:
    """Collect garbage until told to stop; note every collected object and every fault."""
    store = open_place(place)
    while not (folder / "stop").exists():
        try:
            for garbage in collect(store, Rules(grace_s=GRACE_S)):
                note(folder / "collected", garbage.listed.key)
        except QuantmillError as error:
            note(folder / "faults", f"collector: {error}")
        time.sleep(1)


def run(place: str, folder: Path, kills: int, publishers: int, readers: int, seed: int) -> dict[str, Any]:
    """Run the kills on one store, and return the figures."""
    chance, began, started = random.Random(seed), time.monotonic(), 0
    watchers = [FORK.Process(target=reader, args=(place, folder, -n - 1), daemon=True) for n in range(readers)]
    watchers.append(FORK.Process(target=collector, args=(place, folder), daemon=True))
    for process in watchers:
        process.start()
    patience = 12.0 if "://" in place else 2.0
    living: list[tuple[Any, float]] = []
    killed = failed = 0
    while killed < kills:
        while len(living) < publishers:
            outside = chance.random() < 0.2
            dies_at = 10**9 if outside else chance.randint(1, 90)
            process = FORK.Process(target=publisher, args=(place, folder, started, dies_at), daemon=True)
            process.start()
            living.append((process, time.monotonic() + (chance.uniform(0, patience) if outside else 120.0)))
            started += 1
        for process, deadline in list(living):
            if time.monotonic() > deadline and process.is_alive():
                note(folder / "kills", "from outside")
                process.kill()
                process.join()
            if not process.is_alive():
                living.remove((process, deadline))
                killed += process.exitcode == -signal.SIGKILL
                failed += process.exitcode != -signal.SIGKILL
        time.sleep(0.005)
    for process, _ in living:
        process.kill()
        process.join()
    (folder / "stop").touch()
    for process in watchers:
        process.join(120)
        if process.exitcode != 0:
            note(folder / "faults", f"a reader or the collector ended with {process.exitcode}")
    return {"kills": killed, "publishers that failed": failed, "seconds": round(time.monotonic() - began, 1)} | judge(
        open_place(place), folder
    )


def judge(store: Store, folder: Path) -> dict[str, Any]:
    """Read every acknowledged version back, each blob once, and return the figures."""
    acknowledged = [json.loads(line) for line in notes(folder / "acknowledged")]
    lost, checked = 0, dict[str, bool]()
    for variant, digest in acknowledged:
        there = digest in {held.manifest for held in store.versions("m", variant)}
        files = store.manifest(digest).files if there else ()
        for entry in files:
            if entry.sha256 not in checked:
                try:
                    store.fetch((entry,), folder / "final")
                    checked[entry.sha256] = True
                except QuantmillError:
                    checked[entry.sha256] = False
        lost += not there or not all(checked[entry.sha256] for entry in files)
    channel = channels.read_channel(store, "m", "stable")
    moves = len(notes(folder / "moves"))
    boundaries = Counter(notes(folder / "kills"))
    return {
        "boundaries": len(boundaries),
        "acknowledged versions": len(acknowledged),
        "lost": lost,
        "acknowledged moves": moves,
        "lost moves": max(0, moves - (channel.seq if channel else 0)),
        "verified reads": len(notes(folder / "reads")),
        "faults": len(notes(folder / "faults")),
        "first fault": next(iter(notes(folder / "faults")), ""),
        "collected": len(notes(folder / "collected")),
        "blobs kept": sum(1 for _ in store.objects.under("blobs/")),
        "blobs naive": FILES * sum(len(store.versions("m", f"v{n}")) for n in range(8)),
    }


def note(path: Path, line: str) -> None:
    """Append a line in one write, so that the line is complete even if its writer is killed next."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(handle, line.replace("\n", " ").encode() + b"\n")
    os.close(handle)


def notes(path: Path) -> list[str]:
    """Return the lines of a file; none if the file is missing."""
    return path.read_text().splitlines() if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--publishers", type=int, default=3)
    parser.add_argument("--readers", type=int, default=2)
    parser.add_argument("--place", choices=("folder", "s3"))
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    bad = False
    for kind in [asked.place] if asked.place else ["folder", "s3"]:
        with tempfile.TemporaryDirectory(prefix="chaos-") as name, lend_place(kind, Path(name)) as place:
            found = run(place, Path(name), asked.kills, asked.publishers, asked.readers, asked.seed)
        print(kind, json.dumps(found, indent=2), flush=True)
        bad |= bool(found["lost"] or found["lost moves"] or found["faults"] or found["publishers that failed"])
    sys.exit(bad)


if __name__ == "__main__":
    main()
