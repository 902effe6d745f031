"""Runs `quantmill compress` as a person does, and counts the engine processes that it starts."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent


def _hear_interrupts() -> None:
    """Handle Ctrl-C as in a person's shell: a process in the background of a script ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def resident_limit(size: int) -> Iterator[None]:
    """Limit the memory of this process and its children as `ulimit -m` does; Linux does not enforce it."""
    before = resource.getrlimit(resource.RLIMIT_RSS)
    resource.setrlimit(resource.RLIMIT_RSS, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_RSS, before)


class Line:
    """A recipe and a home; the interpreter of each job copies its job file before it becomes Python."""

    def __init__(self, folder: Path, home: Path, recipe: dict[str, Any], **environment: str) -> None:
        self._environment = environment
        self.home, self.recipe, self.starts = home, folder / "recipe.yaml", folder / "starts"
        self.starts.mkdir(parents=True)
        self.recipe.write_text(yaml.safe_dump(recipe))
        self._python = count_starts(folder / "python", self.starts)

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start the command line on the recipe."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
        environment |= {
            "QUANTMILL_HOME": str(self.home),
            "QUANTMILL_PYTHON": str(self._python),
            "PYTHONPATH": str(ROOT),
            **self._environment,
        }
        return subprocess.Popen(
            [sys.executable, "-m", "quantmill.cli", "compress", str(self.recipe), *arguments],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=_hear_interrupts,
        )

    def run(self) -> tuple[int, dict[str, Any], list[str]]:
        """Run to the end; return the exit code, the summary and the processes started, as `kind name`."""
        self.clear()
        process = self.start("--json", str(self.starts.parent / "summary.json"))
        output, _ = process.communicate(timeout=900)
        if process.returncode not in (0, 3):
            raise AssertionError(output[-5000:])
        return process.returncode, json.loads((self.starts.parent / "summary.json").read_text()), self.started()

    def clear(self) -> None:
        for path in self.starts.iterdir():
            path.unlink()

    def started(self) -> list[str]:
        """Return the engine processes started since `clear`, as `kind name`."""
        return started(self.starts)

    def wait_for(self, started: str, timeout_s: float = 300.0) -> int:
        """Return the process id of the job `kind name` as soon as it has started."""
        return wait_for_start(self.starts, started, timeout_s)


def count_starts(python: Path, starts: Path, then: str = "") -> Path:
    """Make an interpreter that copies its job file to `starts`, named by process id, and becomes Python.

    Before that it runs the shell's lines in `then`.
    """
    python.write_text(f'#!/bin/sh\ncp "$3" {starts}/$$.tmp; mv {starts}/$$.tmp {starts}/$$.json\n')
    with python.open("a") as script:
        script.write(f'{then}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return python


def started(starts: Path) -> list[str]:
    """Return the engine processes that were counted, as `kind name`."""
    jobs = [json.loads(path.read_text()) for path in starts.glob("*.json")]
    return sorted(f"{job['kind']} {job['name']}" for job in jobs)


def wait_for_start(starts: Path, job: str, timeout_s: float) -> int:
    """Return the process id of the job `kind name`, the last of several, as soon as it has started."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for path in sorted(starts.glob("*.json"), key=lambda path: -path.stat().st_mtime):
            told = json.loads(path.read_text())
            if f"{told['kind']} {told['name']}" == job:
                return int(path.stem)
        time.sleep(0.01)
    raise TimeoutError(f"{job} did not start; started: {started(starts)}")


def processes_of(home: Path) -> list[str]:
    """Return the command lines of living processes with `home` in their arguments or environment."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes() + (place / "environ").read_bytes()
        except OSError:
            continue
        if str(home).encode() in words and int(place.name) != os.getpid():
            found.append((place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found
