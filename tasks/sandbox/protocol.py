"""The messages between the two sides of a job: the job's file, its progress and its result."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

Progress = Callable[[str, int, int], None]
"""A callback that gets the name of the step, the number of finished units, and their total."""


class JobArguments(BaseModel):
    """The arguments of a job, stored as JSON.

    A room's `job.py` has one subclass for each kind of job, their union `Arguments`, and the function `run`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    alone: ClassVar[bool] = False
    """Whether the job starts alone on the machine, because it measures speed."""
    kind: str
    """The kind of job, as logs and progress lines name it."""


class JobFile(BaseModel):
    """The content of a job's file: all that the child process gets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str = Field(description="The kind of job, as logs and progress lines name it.")
    module: str = Field(description="The module whose `run` does the job: a room's `job.py`.")
    name: str = Field(description="What the job works for, such as a variant's name.")
    arguments: dict[str, Any] = Field(description="The job's arguments, as JSON.")
    folder: Path = Field(description="The scratch folder; the job writes its output to `out` in it.")
    progress_fd: int = Field(description="The descriptor of the pipe for progress lines.")
    alone: bool = Field(description="Whether the job starts alone on the machine.")
    machine_fd: int = Field(default=-1, description="The descriptor of the machine's lock, exclusive or shared.")
    threads: int = Field(ge=1, description="The number of threads that the engine may use.")
    expected: dict[str, str] = Field(description="Package -> version that must be installed.")
    environment: str = Field(default="", description="The environment of the job; empty: the factory's environment.")


class JobResult(BaseModel):
    """The result of a job. The folder `out` is deleted when the `with` block ends."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: dict[str, Any]
    out: Path
    seconds: float
    peak_memory_bytes: int
