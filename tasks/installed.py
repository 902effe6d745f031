"""The locked versions of packages: keys contain them, and every job checks them before its work.

A job can import only the engines that it names.
"""

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
"""The folder of the environments; each environment has its own lock."""


def lock_of(environment: str = "") -> Path:
    """Return the path of an environment's lock; without a name, of the factory's lock."""
    return ENVIRONMENTS / environment / "requirements.lock" if environment else LOCK


@cache
def pins(environment: str = "") -> dict[str, str]:
    """Return package -> version for all packages that an environment's lock pins.

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
    """Return a package's name in the normal form that package indexes compare."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(packages: tuple[str, ...], environment: str = "") -> dict[str, str]:
    """Return package -> version for some packages of an environment's lock.

    Without a name, the lock is the factory's `requirements.lock`.

    Raises:
        EngineMismatch: the lock does not name a package, or cannot be read.
    """
    versions = pins(environment)
    if missing := [name for name in packages if name not in versions]:
        named = f"the lock of the environment {environment}" if environment else LOCK.name
        raise EngineMismatch(f"{missing[0]}: not in {named}")
    return {name: versions[name] for name in sorted(packages)}


def check_installed(expected: dict[str, str], environment: str = "") -> None:
    """Raise an error if an installed version is not the expected one; ignore local suffixes (`+cpu`).

    Raises:
        EngineMismatch: a version differs, and the job runs in the factory's environment.
        EnvironmentNotReady: a version differs, and the job runs in a named environment.
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
    """Block the import of engines that a job does not name.

    Otherwise transformers would import these engines, which takes 3 seconds a job on AVX2.
    """
    unasked = {module: package for row in METHODS.values() for module, package in row.unasked_modules.items()}
    for module, package in unasked.items():
        if package not in expected and module not in sys.modules:
            sys.modules[module] = None  # type: ignore[assignment]  # importlib then raises ModuleNotFoundError
