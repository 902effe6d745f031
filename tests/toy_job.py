"""A job that tests give to a sandbox; its interpreter, or a replaced `run`, decides what the job does."""

from pathlib import Path
from typing import Any

from tasks.sandbox.protocol import JobArguments, Progress


class Arguments(JobArguments):
    """Nothing to work on, of any kind."""

    kind: str = "artifact"


class Alone(Arguments):
    """The same with the machine to itself."""

    alone = True
    kind: str = "report"


def run(arguments: Arguments, out: Path, progress: Progress) -> dict[str, Any]:
    """Fail: tests put something in its place."""
    raise NotImplementedError
