"""The child's side of a job: `python -m tasks.job FILE`. What the kinds of jobs do is in `job_kinds`.

It ends with its parent: standard input at its end means that nobody waits any more, and the whole group is killed.
"""

import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from quantmill.errors import QuantmillError
from tasks import engines
from tasks.deaths import peak_memory
from tasks.job_kinds import KINDS
from tasks.sandbox import JobFile


def _die_with_parent() -> None:
    def wait() -> None:
        while os.read(0, 1):
            pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def _error_name(error: BaseException) -> str:
    if isinstance(error, QuantmillError):
        return type(error).__name__
    words = ("out of memory", "can't allocate memory", "cannot allocate memory")
    starved = isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)
    return "OutOfMemory" if starved else "EngineError"


def main() -> int:
    """Run the job of the file named on the command line; its exit code is 0 where a result was left."""
    job = JobFile.model_validate_json(Path(sys.argv[1]).read_bytes())
    _die_with_parent()
    pipe = os.fdopen(job.progress_fd, "w", buffering=1, encoding="utf-8")

    def progress(step: str, done: int, total: int) -> None:
        pipe.write(json.dumps({"step": step, "done": done, "total": total}) + "\n")

    code, result = 0, dict[str, Any]()
    try:
        engines.check_installed(job.expected)
        result = {"value": KINDS[job.kind](job, progress)}
    except Exception as error:  # noqa: BLE001 (an engine may raise anything; the parent gets its type and words)
        traceback.print_exc()
        words = " ".join(str(error).split())[:600]
        name = _error_name(error)
        code, result = (
            1,
            {
                "error": name,
                "message": words if isinstance(error, QuantmillError) else f"{type(error).__name__}: {words}",
            },
        )
    temporary = job.folder / "result.tmp"
    temporary.write_text(json.dumps(result | {"peak_memory_bytes": peak_memory()}))
    temporary.replace(job.folder / "result.json")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # engines leave threads and exit hooks that hang or crash after the work is done


if __name__ == "__main__":
    main()
