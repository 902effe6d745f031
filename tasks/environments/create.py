"""Makes an environment from its lock: creates a virtual environment, runs pip, checks the result.

A record that is written last marks the environment as complete. pip takes its package index, proxies and cache from its own
settings, as for the factory's packages.
"""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from quantmill.errors import EnvironmentFailed, NotEnoughSpace
from quantmill.machine import disk, locks
from tasks import installed
from tasks.environments.check import problems
from tasks.environments.described import Environment, lock_digest
from tasks.environments.made import RECORD, Made, find_made, lock_of, place_of, python_of, remove, size_bytes

Tell = Callable[[str], None]
_TOLD = re.compile(r"\s*(Collecting \S+|Building wheel for .*|Installing collected packages)")


def create(environment: Environment, root: Path, tell: Tell) -> Made:
    """Make an environment under `root`, unless a working one of the same lock exists; return its record.

    Args:
        environment: the environment.
        root: the folder of the environments.
        tell: called with a line for each step.

    Raises:
        NotEnoughSpace: the disk has no room for the environment.
        EnvironmentFailed: pip failed, or the environment does not work; the message names the log.
    """
    place = place_of(environment.name, root)
    root.mkdir(parents=True, exist_ok=True)
    with _alone(place, tell) as lock, disk.room_at(root):
        if (found := find_made(environment.name, root)) and not problems(environment, root):
            return found
        _require_space(environment, root)
        started = time.monotonic()
        if place.exists():
            tell(f"{environment.name}: removing an incomplete or changed environment")
            remove(place)
        _install(environment, place, lock, tell)
        tell(f"{environment.name}: checking")
        if wrong := problems(environment, root):
            raise EnvironmentFailed(f"{environment.name}: {wrong[0]}; log: {_log(place)}")
        made = Made(
            name=environment.name,
            lock=lock_digest(environment.name),
            seconds=round(time.monotonic() - started, 1),
            size_bytes=size_bytes(place),
        )
        temporary = place / f"{RECORD}.tmp"
        temporary.write_text(made.model_dump_json(), encoding="utf-8")
        temporary.replace(place / RECORD)
        return made


@contextmanager
def _alone(place: Path, tell: Tell) -> Iterator[int]:
    """Hold the lock of an environment's folder and yield the lock's descriptor."""
    with ExitStack() as stack:
        try:
            lock = stack.enter_context(locks.held(lock_of(place), wait=False))
        except BlockingIOError:
            tell(f"{place.name}: another process makes or removes it; waiting")
            lock = stack.enter_context(locks.held(lock_of(place)))
        yield lock


def _require_space(environment: Environment, root: Path) -> None:
    free = shutil.disk_usage(root).free
    if free < environment.disk_mb * 10**6:
        raise NotEnoughSpace(
            f"{environment.name}: needs about {environment.disk_mb:,} MB under {root}; only {free // 10**6:,} MB are free"
        )


def _install(environment: Environment, place: Path, lock: int, tell: Tell) -> None:
    """Create the virtual environment and run pip in it.

    Both processes inherit the lock, so they hold it until they end, even if this process is killed.
    """
    place.mkdir()
    with _log(place).open("w", buffering=1, encoding="utf-8") as log:
        for command in _commands(environment, place):
            errors = list[str]()
            with subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                pass_fds=(lock,),
            ) as process:
                for line in process.stdout or ():
                    log.write(line)
                    if step := _TOLD.match(line):
                        tell(f"{environment.name}: {step[1]}")
                    if line.lower().startswith("error"):
                        errors.append(line.strip())
            if process.returncode:
                said = errors[-1] if errors else f"exit code {process.returncode}"
                raise EnvironmentFailed(
                    f"{environment.name}: {command[2]}: {said}; log: {_log(place)}; pip must reach the index that its settings name"
                )


def _commands(environment: Environment, place: Path) -> Iterator[list[str]]:
    """Yield the commands that make and fill a virtual environment."""
    pinned = installed.lock_of(environment.name)
    pip = [sys.executable, "-m", "pip", "--python", str(python_of(place)), "install", "--no-compile", "--no-input"]
    yield [sys.executable, "-m", "venv", "--without-pip", str(place)]
    if "torch" in environment.pins:  # as in the Makefile: a CUDA build needs libraries that no lock lists
        yield [*pip, "--constraint", str(pinned), "torch"]
    if "--config-settings" in pinned.read_text(encoding="utf-8"):
        pip.append("--no-cache-dir")  # pip's cache ignores the settings that a wheel was built with
    yield [*pip, "--no-deps", "--requirement", str(pinned)]


def _log(place: Path) -> Path:
    return place / "create.log"
