"""Programs of Debian's packages that tests need; the first test that needs a program installs it."""

import os
import shutil
import subprocess
import warnings
from pathlib import Path

from filelock import FileLock

# Not in the temporary folder: each worker of a session has one of its own.
_TRIED = Path("/tmp")
_LIMIT_S = 300


def debian_package(name: str, binary: str) -> Path | None:
    """Return a package's program, the newest of several; install it if it is missing and this user may.

    Return None, with a loud warning, if the program cannot be had: its tests are skipped or use something else. There is one
    attempt per session.

    Args:
        name: the package, as apt-get knows it.
        binary: the program's absolute path; a star stands for a version.
    """
    tried = _TRIED / f"quantmill-{os.getuid()}-{name}"
    with FileLock(f"{tried}.lock"):
        if found := _newest(binary):
            return found
        session = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
        why = tried.read_text() if tried.exists() else ""
        if not why.startswith(session):
            why = f"{session} {_install(name)}"
            tried.write_text(why)
        if found := _newest(binary):
            return found
    words = why.removeprefix(session).strip() or f"the package has no {binary}"
    warnings.warn(f"NOT TESTED AS IT SHOULD BE: apt-get install {name}: {words}", stacklevel=2)
    return None


def _newest(binary: str) -> Path | None:
    found = sorted(Path("/").glob(binary.lstrip("/")), key=lambda path: (len(str(path)), str(path)))
    return found[-1] if found else None


def _install(name: str) -> str:
    """Install a package; return why that did not work, or nothing."""
    if os.getuid() != 0 or shutil.which("apt-get") is None:
        return "it takes root, and apt-get"
    quiet = ["apt-get", "-qq", "-o", "Dpkg::Use-Pty=0"]
    try:
        for command in (["update"], ["install", "-y", "--no-install-recommends", name]):
            done = subprocess.run(
                [*quiet, *command],
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_LIMIT_S,
            )
    except subprocess.TimeoutExpired:
        return f"not done after {_LIMIT_S} s"
    return " ".join(done.stderr.split())[-300:] if done.returncode else ""
