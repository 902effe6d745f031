"""Checks whether an environment matches its lock and works: versions, imports, programs."""

import json
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tasks import installed
from tasks.environments.described import Environment
from tasks.environments.made import place_of, python_of

_LIMIT_S = 600.0
_VERSIONS = """
import importlib.metadata, json
print(json.dumps({found.name: found.version for found in importlib.metadata.distributions()}))
"""


def problems(environment: Environment, root: Path) -> list[str]:
    """Return what differs from the lock or does not work in an environment; empty if all is well."""
    place = place_of(environment.name, root)
    python = str(python_of(place))
    code, said = _run([python, "-I", "-c", _VERSIONS])
    if code:
        return [f"its interpreter does not run: {said}"]
    found = _differences(environment, json.loads(said))
    for module in environment.imports:
        code, said = _run([python, "-I", "-c", f"import {module}"])
        if code:
            found.append(f"import {module}: {said}")
    for program in environment.programs:
        name, *words = shlex.split(program)
        code, said = _run([str(place / "bin" / name), *words])
        if code:
            found.append(f"{program}: {said}")
    return found


def _differences(environment: Environment, found: dict[str, str]) -> list[str]:
    """Return the installed versions that differ from the pinned versions; ignore local suffixes (`+cpu`).

    With torch, packages that the lock does not list are allowed: the libraries of a CUDA build.
    """
    there = {installed.normalized(name): version.partition("+")[0] for name, version in found.items()}
    pinned = {name: version.partition("+")[0] for name, version in environment.pins.items()}
    return [
        f"{name}: the lock says {pinned.get(name, 'none')}, installed is {there.get(name, 'none')}"
        for name in sorted(pinned if "torch" in pinned else there.keys() | pinned.keys())
        if there.get(name) != pinned.get(name)
    ]


def _run(command: Sequence[str]) -> tuple[int, str]:
    """Return a command's exit code and its last line of output; 127 if it cannot start or takes too long."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_LIMIT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 127, str(error)
    lines = done.stdout.decode(errors="replace").strip().splitlines()
    return done.returncode, lines[-1] if lines else f"exit code {done.returncode}"
