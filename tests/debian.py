"""Programs that Debian packages: taken where they are installed, else tried once to install."""

import subprocess
import warnings
from functools import cache
from pathlib import Path


@cache
def debian_package(name: str, binary: str) -> Path | None:
    """Return the program, or None with a warning where apt-get cannot install it."""
    path = Path(binary)
    if not path.exists():
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", name]
        try:
            made = subprocess.run(command, capture_output=True, text=True, timeout=300)
            said = (made.stderr or made.stdout).strip().rpartition("\n")[2]
        except (OSError, subprocess.TimeoutExpired) as error:
            said = str(error)
        if not path.exists():
            warnings.warn(f"{name} is not installed and apt-get could not do it: {said}", stacklevel=2)
            return None
    return path
