"""The child's side of a job: `python -m tasks.sandbox.child FILE` calls `run` of the room's `job.py`.

The child ends with its parent: when standard input reaches its end, the child kills its whole process group.
"""

import importlib
import json
import os
import shutil
import signal
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from quantmill.errors import QuantmillError
from quantmill.machine import disk
from tasks import installed
from tasks.sandbox import here
from tasks.sandbox.here import peak_memory
from tasks.sandbox.protocol import JobFile


def _die_with_parent() -> None:
    def wait() -> None:
        while os.read(0, 1):
            pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def _told(error: Exception, folder: Path) -> dict[str, Any]:
    """Return the error class and the message for the parent.

    The class is that of a Quantmill error, or follows from a known cause (memory, disk); else it is EngineError.
    """
    words = " ".join(str(error).split())[:600]
    if isinstance(error, QuantmillError):
        return {"error": type(error).__name__, "message": words}
    words = f"{type(error).__name__}: {words}"
    starving = ("out of memory", "can't allocate memory", "cannot allocate memory")
    if isinstance(error, MemoryError) or any(word in words.lower() for word in starving):
        return {"error": "OutOfMemory", "message": words}
    if disk.is_full(error) or disk.has_no_room(folder):  # engines seldom say why they could not write
        return {"error": "DiskFull", "message": str(disk.told(error, folder, words))}
    return {"error": "EngineError", "message": words}


def main() -> int:
    """Run the job in the file that the command line names; exit with 0 after success, else with 1."""
    job = JobFile.model_validate_json(Path(sys.argv[1]).read_bytes())
    _die_with_parent()
    pipe = os.fdopen(job.progress_fd, "w", buffering=1, encoding="utf-8")

    def progress(step: str, done: int, total: int) -> None:
        pipe.write(json.dumps({"step": step, "done": done, "total": total}) + "\n")

    code, result = 0, dict[str, Any]()
    try:
        installed.check_installed(job.expected, job.environment)
        installed.hide_unasked(job.expected)
        module = importlib.import_module(job.module)
        arguments = TypeAdapter(module.Arguments).validate_python(job.arguments)
        here.MACHINE_FD = job.machine_fd
        result = {"value": module.run(arguments, job.folder / "out", progress)}
    except Exception as error:  # noqa: BLE001 (an engine may raise anything; the parent gets its type and message)
        code, result = 1, _told(error, job.folder)
        with suppress(OSError):  # the log's disk may be full
            traceback.print_exc()
            sys.stderr.flush()
        shutil.rmtree(job.folder / "out", ignore_errors=True)  # makes room on the disk for the result file
    temporary = job.folder / "result.tmp"
    with suppress(OSError):  # without a result file, the parent finds the cause of death
        temporary.write_text(json.dumps(result | {"peak_memory_bytes": peak_memory()}))
        temporary.replace(job.folder / "result.json")
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)  # engines leave threads and exit hooks that hang or crash after the work is done


if __name__ == "__main__":
    main()
