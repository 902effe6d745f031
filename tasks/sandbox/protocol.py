"""What the two sides of a job say to each other: the job's file, its progress, its result."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

Progress = Callable[[str, int, int], None]
"""Told the step, how many are done, of how many."""


class JobArguments(BaseModel):
    """What a job works on, as JSON. A room's `job.py` has a class for each kind of job, all of them as `Arguments`, and `run`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alone: ClassVar[bool] = False
    """Whether the job measures speed, which says nothing beside another job: it begins with the machine to itself."""
    kind: str
    """The kind of job, as logs and progress name it."""


class JobFile(BaseModel):
    """What a job is told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str = Field(description="The kind of job, as logs and progress name it.")
    module: str = Field(description="The module whose `run` does the job: a room's `job.py`.")
    name: str = Field(description="What it works for: a variant.")
    arguments: dict[str, Any] = Field(description="Its arguments, as JSON.")
    folder: Path = Field(description="Scratch; `out` in it is what the job fills.")
    progress_fd: int = Field(description="The pipe that takes progress lines.")
    alone: bool = Field(description="Whether it begins with the machine to itself.")
    machine_fd: int = Field(default=-1, description="The lock by which it has the machine, alone or with others.")
    threads: int = Field(ge=1, description="Threads that the engine may use.")
    expected: dict[str, str] = Field(description="Package -> version that must be installed.")
    environment: str = Field(default="", description="The environment that it runs in; empty: the factory's own.")


class JobResult(BaseModel):
    """What a job left. `out` is gone when the `with` block ends."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: dict[str, Any]
    out: Path
    seconds: float
    peak_memory_bytes: int
