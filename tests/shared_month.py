"""Plays a month of two users who share a store, day by day, and prints the results as JSON.

    python -m tests.shared_month FOLDER

Both users have umask 077; the store belongs to their group. The clock moves a day at a time. Each day both users publish; every
third day one of them collects garbage. Versions are promoted and pulled, and writers die. On some days the disk is full (a tmpfs,
if this process may mount one), on some a model is moved and linked back, on some a folder is closed. The collections keep three
hours of grace, ten days of retention, and the two newest versions of each variant. At the end every version that these rules keep
is fetched.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from quantmill.errors import QuantmillError
from quantmill.store import channels
from quantmill.store.places import open_store
from tests.users import DAY_S, GROUP, User

DAYS, KEPT_DAYS, NEWEST = 30, 10, 2
RULES = ("--grace", "3", "--retention-days", str(KEPT_DAYS), "--newest", str(NEWEST))
FULL_DAYS, LINK_DAYS, CLOSED_DAYS = (8, 21), (5, 17), (11, 26)
VARIANTS = ("gguf-q8_0", "gptq-4bit-g64")


class Month:
    """The events of the month, and a record of them."""

    def __init__(self, place: Path) -> None:
        self.store, self.place = place / "disk" / "store", place
        self.mounted = _mount(place / "disk")
        self.store.mkdir(parents=True)
        if os.geteuid() == 0:
            os.chown(self.store, GROUP + 1, GROUP)
        self.store.chmod(0o2770)
        self.users = (User(1, place / "ann"), User(2, place / "ben"))
        self.published: dict[str, tuple[int, str, str]] = {}
        self.days: list[tuple[float, float]] = []
        self.stopped, self.counts = Counter[str](), Counter[str]()
        self.chance = random.Random(12)

    def play(self) -> None:
        for day in range(DAYS):
            self.days.append((time.time(), day * DAY_S))
            for user in self.users:
                user.does("clock", *self.days)
            for user in self.users:
                self.publish(day, user, seed=100 * day + self.users.index(user))
            writer, other = self.users if day % 2 else self.users[::-1]
            if day % 4 == 0:  # a run that is killed before any record names what it stored
                writer.does("abandon", self.store, 50_000 + day)
            self.promote(day, writer)
            if day in LINK_DAYS:
                self.link_and_collect(other)
            if day in CLOSED_DAYS:
                self.close_and_collect(writer, other)
            if day in FULL_DAYS and self.mounted:
                self.fill_and_collect(day, writer, other)
            if day % 3 == 2:
                self.collect(other)
            if day % 2:
                self.pull(self.users[day // 2 % 2])

    def publish(self, day: int, user: User, seed: int, numbers: int = 20_000) -> None:
        variant = VARIANTS[seed % 2]
        # Every third version is one that was published before: its bytes are there, may be going, or are gone.
        again = [known for known in self.published.values() if known[2] == variant]
        seed = int(self.chance.choice(again)[1]) if again and day % 3 == 0 else seed
        made = user.does("publish", self.store, "m", variant, seed, numbers)
        assert "digest" in made, made
        self.published[made["digest"]] = (day, str(seed), variant)

    def promote(self, day: int, user: User) -> None:
        if day % 2 == 0:
            words = ("promote", "m", *VARIANTS, "--channel", "stable", "--reason", f"day {day}", "--store", self.store)
            code, said = user.types(*words)
            assert code == 0, said

    def pull(self, user: User) -> None:
        to = user.home / "pulled"
        code, said = user.types("pull", "m", "--channel", "stable", "--to", to, "--store", self.store)
        assert code == 0, said
        code, said = user.types("verify", to)
        assert code == 0, said
        self.counts["pulled"] += 1

    def collect(self, user: User) -> None:
        code, said = user.types("gc", *RULES, "--store", self.store, "--json", "-")
        assert code == 0, said
        self.counts["removed"] += len(json.loads(said)["removed"])

    def link_and_collect(self, user: User) -> None:
        """Move the model away and link it back, as a person with a small disk would; then collect."""
        model, away = self.store / "models" / "m", self.place / "away"
        _move(model, away)
        model.symlink_to(away)
        self.require_stop(user, "link", 4, "not a plain file or folder but a link")
        model.unlink()
        _move(away, model)

    def close_and_collect(self, owner: User, user: User) -> None:
        """Close the folder of a variant's versions, as a copy by hand with umask 077 would; then collect."""
        folder = self.store / "models" / "m" / VARIANTS[0] / "versions"
        state = folder.stat()
        if os.geteuid() == 0:
            os.chown(folder, 0, 0)
        folder.chmod(0)
        self.require_stop(
            user, "closed", 1, "Permission denied; users share a store by the mode and group of its folder"
        )
        os.chown(folder, state.st_uid, state.st_gid)
        folder.chmod(state.st_mode & 0o7777)

    def fill_and_collect(self, day: int, writer: User, other: User) -> None:
        """Fill the disk to its last byte: publishing stops, collecting works; then publishing works again."""
        _fill(self.place / "disk")
        for user in (writer, other):
            made = user.does("publish", self.store, "m", VARIANTS[0], 90_000 + day, 40_000)
            assert made.get("error") == "DiskFull", made
            assert f"{self.store}: the disk ran full (0 bytes free now)" in made["said"], made
            self.counts["stopped_full"] += 1
        self.collect(other)
        self.counts["collected_full"] += 1
        for ballast in (self.place / "disk").glob("ballast*"):
            ballast.unlink()
        self.publish(day, writer, 90_000 + day)

    def require_stop(self, user: User, kind: str, code: int, words: str) -> None:
        before = _files(self.store)
        ended, said = user.types("gc", *RULES, "--store", self.store)
        assert (ended, words in said) == (code, True), said
        assert _files(self.store) == before, "nothing is removed on a guess"
        self.stopped[kind] += 1

    def lost(self) -> list[str]:
        """Return the versions that should be there and cannot be fetched in full."""
        store = open_store(self.store)
        channel = channels.read_channel(store, "m", "stable")
        assert channel
        wanted = {digest for move in channel.moves for digest in move.variants.values()}
        wanted |= {digest for digest, (day, *_) in self.published.items() if day > DAYS - 1 - KEPT_DAYS}
        for variant in VARIANTS:
            of_it = sorted((day, digest) for digest, (day, _, name) in self.published.items() if name == variant)
            wanted |= {digest for _, digest in of_it[-NEWEST:]}
        lost, there = [], {version.manifest for variant in VARIANTS for version in store.versions("m", variant)}
        for digest in sorted(wanted):
            try:
                manifest = store.manifest(digest)
                store.fetch(manifest.files, self.place / "out" / digest)
                lost += [digest] if digest not in there else []
            except QuantmillError as error:
                lost.append(f"{digest}: {error}")
        self.counts["kept"] = len(there)
        return lost


def _mount(disk: Path) -> bool:
    """Mount a small disk, and return whether this process may do so."""
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=0755", "tmpfs", str(disk)], capture_output=True)
    return done.returncode == 0


def _move(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)
    subprocess.run(["rm", "-r", str(source)], check=True)


def _fill(disk: Path) -> None:
    for number in range(10**6):
        try:
            with (disk / f"ballast{number}").open("wb", buffering=0) as file:
                for _ in range(10**6):
                    if file.write(b"x" * 4096) < 4096:
                        return
        except OSError:
            return


def _files(store: Path) -> dict[str, Any]:
    found = (path for path in store.rglob("*") if not path.is_dir())
    return {str(path): path.lstat().st_ino for path in found if "leases" not in path.parts}


def main() -> None:
    """Play the month."""
    month = Month(Path(sys.argv[1]))
    try:
        month.play()
    finally:
        for user in month.users:
            user.leaves()
    counts: dict[str, Any] = {
        name: month.counts[name] for name in ("removed", "pulled", "stopped_full", "collected_full")
    }
    lost = month.lost()
    counts |= {"published": len(month.published), "kept": month.counts["kept"], "stopped": month.stopped, "lost": lost}
    sys.stdout.write(json.dumps(counts) + "\n")


if __name__ == "__main__":
    main()
