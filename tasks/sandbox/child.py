"""The child's side of a job: `python -m tasks.sandbox.child FILE` calls `run` of the room's `job.py`.

It ends with its parent: standard input at its end means that nobody waits any more, and the whole group is killed.
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
    """Return what the parent is told of an error: its class, where it is ours or its cause is known, and its words."""
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
    """Run the job of the file named on the command line; its exit code is 0 where a result was left."""
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
    except Exception as error:  # noqa: BLE001 (an engine may raise anything; the parent gets its type and words)
        code, result = 1, _told(error, job.folder)
        with suppress(OSError):  # the log's disk may be the one that is full
            traceback.print_exc()
            sys.stderr.flush()
        shutil.rmtree(job.folder / "out", ignore_errors=True)  # nobody wants it any more, and the result needs room
    temporary = job.folder / "result.tmp"
    with suppress(OSError):  # the parent says what a job without a result died of
        temporary.write_text(json.dumps(result | {"peak_memory_bytes": peak_memory()}))
        temporary.replace(job.folder / "result.json")
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)  # engines leave threads and exit hooks that hang or crash after the work is done


if __name__ == "__main__":
    main()
