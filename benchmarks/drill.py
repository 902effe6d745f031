"""Helpers of the drills: variants of a given length, the states of their runs, a line for each check."""

import sys
import time
from collections.abc import Callable

from benchmarks.scheduling_factory import artifact_file
from quantmill.records.job import VariantJob
from tests import samples
from tests.service import Service

FAILED: list[str] = []
"""The checks that failed."""


def look(what: str, true: bool, seen: object = "") -> None:
    """Print whether a check holds, and remember a check that fails."""
    sys.stdout.write(f"{'as said' if true else 'NOT SO '} | {what} | {seen}\n")
    sys.stdout.flush()
    if not true:
        FAILED.append(what)


def jobs_of(service: Service, name: str, count: int, seconds: float) -> list[VariantJob]:
    files = artifact_file(service)
    return [samples.job(f"sleep-{seconds:g}-{name}{n}", files=files) for n in range(count)]


def states(service: Service, name: str) -> list[str]:
    """Return the states of the runs of a drill's variants, oldest run first."""
    return [run["state_name"] for run in service.runs("cpu") if f"-{name}" in run["name"]]


def until(true: Callable[[], bool], timeout_s: float = 120) -> bool:
    """Wait for a condition, and return whether it came true in time."""
    deadline = time.monotonic() + timeout_s
    while not true() and time.monotonic() < deadline:
        time.sleep(0.5)
    return true()
