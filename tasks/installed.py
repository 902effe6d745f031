"""The locked versions of packages: part of every key, and checked by every job before it works. A job sees its own alone."""

import importlib.metadata
import re
import sys
from functools import cache
from pathlib import Path

from quantmill.errors import EngineMismatch, EnvironmentNotReady
from quantmill.recipe.methods import METHODS

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
ENVIRONMENTS = ROOT / "environments"
"""Folder of the environments: each has a lock of its own."""


def lock_of(environment: str = "") -> Path:
    """Return the lock of an environment; without a name the factory's own."""
    return ENVIRONMENTS / environment / "requirements.lock" if environment else LOCK


@cache
def pins(environment: str = "") -> dict[str, str]:
    """Return package -> version for all packages that a lock pins.

    Raises:
        EngineMismatch: the lock cannot be read.
    """
    lock = lock_of(environment)
    try:
        found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    except (OSError, ValueError) as error:
        raise EngineMismatch(f"{lock}: the lock cannot be read: {error}") from error
    return {normalized(name): version for name, version in found}


def normalized(name: str) -> str:
    """Return a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(packages: tuple[str, ...], environment: str = "") -> dict[str, str]:
    """Return package -> version as the lock of an environment pins it; without a name the factory's `requirements.lock`.

    Raises:
        EngineMismatch: the lock does not name a package, or cannot be read.
    """
    versions = pins(environment)
    if missing := [name for name in packages if name not in versions]:
        named = f"the lock of the environment {environment}" if environment else LOCK.name
        raise EngineMismatch(f"{missing[0]}: not in {named}")
    return {name: versions[name] for name in sorted(packages)}


def check_installed(expected: dict[str, str], environment: str = "") -> None:
    """Compare the installed versions with the expected ones; a local suffix (`+cpu`) does not count.

    Raises:
        EngineMismatch: a version differs.
        EnvironmentNotReady: a version differs, and the job runs in an environment.
    """
    for name, version in expected.items():
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed = "none"
        if installed.partition("+")[0] == version.partition("+")[0]:
            continue
        words = f"{name}: the lock says {version}, installed is {installed}"
        if environment:
            raise EnvironmentNotReady(f"{environment}: {words}")
        raise EngineMismatch(f"{words}; run `make` to install the lock")


def hide_unasked(expected: dict[str, str]) -> None:
    """Let a job import nothing of engines that it does not name: transformers would import theirs, 3 s a job on AVX2."""
    unasked = {module: package for row in METHODS.values() for module, package in row.unasked_modules.items()}
    for module, package in unasked.items():
        if package not in expected and module not in sys.modules:
            sys.modules[module] = None  # type: ignore[assignment]  # for importlib: there is no such module
