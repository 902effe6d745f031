"""Environments on this machine: `FOLDER/NAME-LOCK/` with a virtual environment and, written last, the record of its making."""

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
    """The record of an environment that is complete."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="The environment's name.")
    lock: str = Field(description="The sha256 of the lock that it was made from.")
    seconds: float = Field(description="How long it took to make.")
    size_bytes: int = Field(description="What it took on the disk.")


def place_of(name: str, root: Path) -> Path:
    """Return the folder that an environment of today's lock has under `root`, made or not."""
    return root / f"{name}-{lock_digest(name)[:12]}"


def lock_of(place: Path) -> Path:
    """Return the file whose lock is held by whoever makes or removes an environment's folder."""
    return place.with_name(f".{place.name}.lock")


def python_of(place: Path) -> Path:
    """Return the interpreter of an environment's folder."""
    return place / "bin" / "python"


def find_made(name: str, root: Path) -> Made | None:
    """Return the record of an environment that was made under `root` from today's lock; None: there is none that works here.

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
    return (
        record if os.access(python_of(place), os.X_OK) else None
    )  # a shared folder's may lack its base interpreter here


def interpreter(name: str, root: Path) -> Path:
    """Return the interpreter of a made environment, and note that it was used.

    Raises:
        EnvironmentNotReady: it is not made under `root`.
    """
    if find_made(name, root) is None:
        raise EnvironmentNotReady(f"{name}: this environment is not made on this machine (no {place_of(name, root)})")
    with suppress(PermissionError):  # a shared folder that others keep
        os.utime(place_of(name, root) / RECORD)
    return python_of(place_of(name, root))


def remove(place: Path) -> None:
    """Remove an environment's folder, its record first: what is half removed counts as half made."""
    (place / RECORD).unlink(missing_ok=True)
    shutil.rmtree(place)


def size_bytes(place: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(state.st_size for _, state in walk.below(place))
