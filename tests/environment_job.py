"""A job for an environment: returns its interpreter and what it can import."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

from tasks.sandbox.protocol import JobArguments, Progress


class Arguments(JobArguments):
    """Nothing to work on."""

    kind: str = "artifact"


def run(arguments: Arguments, out: Path, progress: Progress) -> dict[str, Any]:
    """Import the environment's engine and say what is found."""
    import toy_engine

    return {
        "python": sys.executable,
        "engine": toy_engine.VERSION,
        "torch": importlib.util.find_spec("torch") is not None,
    }
