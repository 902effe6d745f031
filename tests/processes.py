"""Processes that tests wait for, and groups of limited memory."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tasks.sandbox.deaths import memory_events


@contextmanager
def memory_group(limit_bytes: int) -> Iterator[Path]:
    """Yield the file that moves processes into a control group of limited memory; needs root."""
    events = memory_events("self")
    if events is None or not os.access(events.parent, os.W_OK):
        pytest.skip("no control group for memory can be made here: kills by the kernel are not tried for real")
    old = events.name == "memory.oom_control"
    place = (events.parent if old else Path("/sys/fs/cgroup")) / f"quantmill-test-{os.getpid()}"
    try:
        place.mkdir()
        (place / ("memory.limit_in_bytes" if old else "memory.max")).write_text(str(limit_bytes))
    except OSError as error:
        pytest.skip(
            f"no control group for memory can be made here ({error}): kills by the kernel are not tried for real"
        )
    try:
        yield place / "cgroup.procs"
    finally:
        deadline = time.monotonic() + 10
        while place.exists() and time.monotonic() < deadline:
            with suppress(OSError):
                place.rmdir()


def gone(pid: int, wait_s: float = 10.0) -> bool:
    """Return whether a process ends within `wait_s` seconds; a zombie counts as ended."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
