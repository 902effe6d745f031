"""The environments on this machine, each in a folder `FOLDER/NAME-LOCK/`.

The folder holds a virtual environment and a record, which is written last and marks the environment as complete.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quantmill.errors import EnvironmentFailed, EnvironmentNotReady
from quantmill.files import walk
from tasks.environments.described import lock_digest

RECORD = "complete.json"


class Made(BaseModel):
    """The record of a complete environment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="The environment's name.")
    lock: str = Field(description="The sha256 of the environment's lock.")
    seconds: float = Field(description="How many seconds the creation took.")
    size_bytes: int = Field(description="The size of the folder in bytes.")


def place_of(name: str, root: Path) -> Path:
    """Return the folder under `root` for an environment of the current lock; it may not exist."""
    return root / f"{name}-{lock_digest(name)[:12]}"


def lock_of(place: Path) -> Path:
    """Return the lock file that a process holds while it makes or removes an environment's folder."""
    return place.with_name(f".{place.name}.lock")


def python_of(place: Path) -> Path:
    """Return the path of the interpreter in an environment's folder."""
    return place / "bin" / "python"


def find_made(name: str, root: Path) -> Made | None:
    """Return the record of an environment under `root` that was made from the current lock.

    None if there is no such environment, or if its interpreter does not work on this machine.

    Raises:
        EnvironmentFailed: the record cannot be read.
    """
    place = place_of(name, root)
    try:
        record = Made.model_validate_json((place / RECORD).read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise EnvironmentFailed(
            f"{place / RECORD}: cannot be read; remove {place}, then create {name} again"
        ) from error
    # In a shared folder, the interpreter may be a link to a base interpreter that this machine lacks.
    return record if os.access(python_of(place), os.X_OK) else None


def interpreter(name: str, root: Path) -> Path:
    """Return the interpreter of an environment, and record that the environment was used.

    Raises:
        EnvironmentNotReady: the environment does not exist under `root`.
    """
    if find_made(name, root) is None:
        raise EnvironmentNotReady(f"{name}: this environment is not made on this machine (no {place_of(name, root)})")
    with suppress(PermissionError):  # another user may own a shared folder
        os.utime(place_of(name, root) / RECORD)
    return python_of(place_of(name, root))


def remove(place: Path) -> None:
    """Remove an environment's folder, the record first.

    Without its record, a folder whose removal was interrupted counts as incomplete.
    """
    (place / RECORD).unlink(missing_ok=True)
    shutil.rmtree(place)


def size_bytes(place: Path) -> int:
    """Return the size in bytes of all files below a folder."""
    return sum(state.st_size for _, state in walk.below(place))
