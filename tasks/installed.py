"""The locked versions of packages: part of every key, and checked by every job before it works. A job sees its own alone."""

import importlib.metadata
import re
import sys
from functools import cache
from pathlib import Path

from quantmill.errors import EngineMismatch
from quantmill.recipe.methods import METHODS

LOCK = Path(__file__).resolve().parent.parent / "requirements.lock"


@cache
def _locked_versions() -> dict[str, str]:
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", LOCK.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins}


def locked(packages: tuple[str, ...]) -> dict[str, str]:
    """Return package -> version as `requirements.lock` pins it.

    Raises:
        EngineMismatch: the lock does not name a package.
    """
    versions = _locked_versions()
    if missing := [name for name in packages if name not in versions]:
        raise EngineMismatch(f"{missing[0]}: not in {LOCK.name}")
    return {name: versions[name] for name in sorted(packages)}


def check_installed(expected: dict[str, str]) -> None:
    """Raise EngineMismatch where an installed version is not the expected one; a local suffix (`+cpu`) does not count."""
    for name, version in expected.items():
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed = "none"
        if installed.partition("+")[0] != version.partition("+")[0]:
            raise EngineMismatch(
                f"{name}: the lock says {version}, installed is {installed}; run `make` to install the lock"
            )


def hide_unasked(expected: dict[str, str]) -> None:
    """Let a job import nothing of engines that it does not name: transformers would import theirs, 3 s a job on AVX2."""
    unasked = {module: package for row in METHODS.values() for module, package in row.unasked_modules.items()}
    for module, package in unasked.items():
        if package not in expected and module not in sys.modules:
            sys.modules[module] = None  # type: ignore[assignment]  # for importlib: there is no such module
