"""A full disk gives one error with path and free space wherever it happens; a collection still works.

A disk is a tmpfs of a few MB in a mount namespace of a process of its own; where no mount is allowed its tests are skipped.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quantmill.errors import DiskFull, NotEnoughSpace
from quantmill.machine import disk
from tests.users import ROOT

needs_mount = pytest.mark.skipif(
    subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0,
    reason="a disk to fill needs the right to mount",
)

FILL = r"""
import os, sys
from pathlib import Path
place = Path(sys.argv[1])

def fill(leave=0):
    with (place / "ballast").open("wb", buffering=0) as ballast:
        try:
            while ballast.write(b"x" * 4096) == 4096:
                pass
        except OSError:
            pass
    if leave:
        os.truncate(place / "ballast", (place / "ballast").stat().st_size - leave)
"""


def on_a_small_disk(tmp_path: Path, body: str, size: str = "8m", timeout: int = 60) -> list[str]:
    """Run a program that fills the disk at `place`; return the lines that it prints."""
    (tmp_path / "disk").mkdir()
    script = f'mount -t tmpfs -o size={size} tmpfs "$1" && exec {sys.executable} -c "$0" "$1"'
    ended = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, FILL + body, str(tmp_path / "disk")],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout.splitlines()


COLLECT = """
from quantmill.store.places import open_store
from quantmill.store.layout import blob_key
from quantmill import cli
from tests.published import publish, stable
import json, shutil, time

def gc(*words):
    sys.argv = ["quantmill", "gc", "--store", str(place / "store"), "--grace", "1", *words]
    try:
        cli.main()
        print("gc", 0)
    except SystemExit as ended:
        print("gc", ended.code)

sys.stderr = sys.stdout
store = open_store(place / "store")
made = publish(store, place / "made")
stable(store, made)
(place / "extra").mkdir()
(place / "extra" / "w").write_bytes(b"w" * 100_000)
(extra,) = store.add_folder(place / "extra")
shutil.rmtree(place / "extra")
shutil.rmtree(place / "made")
store.leases.release([extra.sha256])
real = time.time
time.time = lambda: real() + 3 * 86400
"""


@needs_mount
def test_fault_04_gc_works_on_a_full_disk(tmp_path: Path) -> None:
    """The record of a sweep needs room too, which a store keeps for it."""
    body = """
fill()
gc("--json", "-")
print(store.has_blob(extra), os.path.exists(place / "store" / "reserve"))
store.fetch(made.files, place / "out")
fill()
gc()
print(sorted(path.name for path in (place / "store").iterdir() if path.is_file()))
"""
    said = on_a_small_disk(tmp_path, COLLECT + body)
    assert said.count("gc 0") == 2, said
    assert "False True" in said, "what nothing needs is gone, and the room is kept again"
    assert said[-1] == "['reserve']"


@needs_mount
def test_fault_04_gc_of_a_store_without_such_room_takes_what_dead_writers_left_or_says_what_to_do(
    tmp_path: Path,
) -> None:
    body = """
(place / "store" / "reserve").unlink()
fill()
gc()
print(store.has_blob(extra))
rest = place / "store" / "blobs" / ("." + "ab" * 32 + ".0123456789ab")
(place / "ballast").unlink()
rest.write_bytes(b"x" * 8192)
fill()
gc()
print(store.has_blob(extra), rest.exists())
"""
    said = on_a_small_disk(tmp_path, COLLECT + body)
    assert f"error: {tmp_path}/disk/store: the disk ran full (0 bytes free now); try this: make room there" in said[0]
    assert "\n".join(said).count("error:") == 1
    assert said[1:3] == ["gc 1", "True"]
    assert said[-2:] == ["gc 0", "False False"]


KEYS = """
from quantmill import cli
sys.stderr = sys.stdout
sys.argv = ["quantmill", "keys", "create", "--out", str(place / "keys"), "--name", "release"]
(place / "keys" / "keyring").mkdir(parents=True)
for leave in (0, 4096, 8192):
    fill(leave)
    try:
        cli.main()
    except SystemExit as ended:
        print(ended.code, sorted(path.name for path in (place / "keys").rglob("*") if path.is_file()))
"""


@needs_mount
def test_fault_04_keys_that_found_no_room_do_not_block_the_next_try(tmp_path: Path) -> None:
    """Neither where there is no room at all, nor where there is room for one of the two."""
    said = on_a_small_disk(tmp_path, KEYS)
    for line in (said[0], said[2]):
        assert line.startswith(f"error: {tmp_path}/disk/keys: the disk ran full ("), said
    assert said[1] == said[3] == "1 []"
    assert said[4].startswith("Key "), said
    assert {path.name for path in (tmp_path / "disk").iterdir()} == set(), "the disk was another one"


JOBS = '''
from quantmill.settings import Settings
from quantmill.errors import QuantmillError
from tasks.sandbox import Sandbox
from tests.toy_job import Arguments
code = Path(sys.argv[1]).parent / "job.py"
python = code.with_name("python")
python.write_text(f'#!/bin/sh\\nexec {sys.executable} {code} "$3"\\n')
python.chmod(0o755)
HEAD = """
import mmap, os, sys
import tasks.sandbox.child
from pathlib import Path
from tests import toy_job
def fill(job):
    with open(job / 'w', 'wb', buffering=0) as file:
        while file.write(b'x' * 4096) == 4096:
            pass
    file = open(job / 'v', 'wb', buffering=0)
    file.write(b'x' * 4096)
def touch_what_is_not_there(job):
    with open(job / 'm', 'w+b') as file:
        file.truncate(1 << 25)
        mmap.mmap(file.fileno(), 1 << 25)[:] = bytes(1 << 25)
def quietly(job):
    try:
        fill(job)
    except OSError:
        pass
"""
for name, work in {
    "says so": "fill(job)",
    "says something else": "quietly(job); raise RuntimeError('basic_ios::clear: iostream error')",
    "says nothing": "quietly(job); os._exit(7)",
    "dies of it": "touch_what_is_not_there(job)",
    "has room": "raise RuntimeError('no such layer')",
}.items():
    code.write_text(HEAD + f"def work(told, job, progress):\\n    {work}\\ntoy_job.run = work\\nsys.exit(tasks.sandbox.child.main())\\n")
    try:
        with Sandbox(Settings(home=place / "home", python=python)).run(Arguments(), "thing"):
            pass
    except QuantmillError as error:
        print(f"{name}: {type(error).__name__}: {error}")
fill()
try:
    with Sandbox(Settings(home=place / "home", python=python)).run(Arguments(), "thing"):
        pass
except QuantmillError as error:
    print(f"never began: {type(error).__name__}: {error}")
'''


@needs_mount
def test_fault_04_a_job_on_a_full_disk_says_so(tmp_path: Path) -> None:
    said = dict(line.split(": ", 1) for line in on_a_small_disk(tmp_path, JOBS))
    home, log = f"{tmp_path}/disk/home", f"log: {tmp_path}/disk/home/logs/thing-artifact.log"
    for name in ("says so", "says something else", "says nothing", "dies of it"):
        assert said[name].startswith(f"DiskFull: {home}/scratch/"), said[name]
        assert ": the disk ran full (0 bytes free now); " in said[name]
        assert said[name].endswith(log), said[name]
    assert "OSError: [Errno 28] No space left on device" in said["says so"]
    assert "RuntimeError: basic_ios::clear: iostream error" in said["says something else"]
    assert "artifact ended with code 7" in said["says nothing"]
    assert "artifact was killed by SIGBUS" in said["dies of it"]
    assert said["has room"] == f"EngineError: RuntimeError: no such layer; {log}"
    assert said["never began"] == f"DiskFull: {home}: the disk ran full (0 bytes free now)"


SERVER = """
from flows.server.embedded import prefect_api
from quantmill.errors import QuantmillError
(place / "home").mkdir()
for leave in (0, (1 << 20) + 8192):
    fill(leave)
    try:
        with prefect_api(place / "home"):
            print("it started")
    except QuantmillError as error:
        print(f"{type(error).__name__}: {error}")
"""


@needs_mount
def test_fault_04_the_embedded_server_s_death_on_a_full_disk_has_a_reason(tmp_path: Path) -> None:
    before, died = on_a_small_disk(tmp_path, SERVER, timeout=200)
    assert (
        before == f"DiskFull: {tmp_path}/disk/home: the disk ran full (0 bytes free now); Prefect's database needs room"
    )
    assert died.startswith(f"DiskFull: {tmp_path}/disk/home: the disk ran full ("), died
    assert died.endswith("bytes free now); the embedded Prefect server died with status 3"), died


def test_a_full_disk_is_told_from_other_errors_by_its_number_its_cause_or_its_words() -> None:
    import errno
    import sqlite3

    assert disk.is_full(OSError(errno.ENOSPC, "x"))
    assert disk.is_full(OSError(errno.EDQUOT, "x"))
    assert disk.is_full(sqlite3.OperationalError("database or disk is full"))
    assert not disk.is_full(OSError(errno.EFBIG, "File too large"))
    assert not disk.is_full(None)
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise ValueError("the file could not be written") from error
    except ValueError as error:
        assert disk.is_full(error)
    told = disk.told(OSError(errno.ENOSPC, "x", "/no/such/place", None, "/other"), Path("/"))
    assert isinstance(told, DiskFull)
    assert not isinstance(told, NotEnoughSpace)
    assert str(told).startswith("/other: the disk ran full (")
    assert told.exit_code == 1
    assert "run the same command again" in told.advice


def test_what_writes_to_dev_full_is_told_the_same(tmp_path: Path) -> None:
    """`/dev/full` answers every write with ENOSPC."""
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-m", "quantmill.cli", "methods", "--json", "/dev/full"], cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "QUANTMILL_HOME": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 1, ended
    assert ended.stderr.startswith("error: "), ended.stderr
    assert ": the disk ran full (" in ended.stderr
    assert time.monotonic() - began < 60
