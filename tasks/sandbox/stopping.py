"""The latch of a stop: once a process was told to stop, nothing starts in it, in whichever thread and between whichever jobs.

A stop reaches the event loop. Stages run in threads, which no one can cancel: each asks here before it starts something.
"""

import os
import signal
import subprocess
from contextlib import suppress

from quantmill.errors import Stopped

WORDS = "stopped: nothing more starts; the same command goes on with what is missing"
RUNNING: set[subprocess.Popen[bytes]] = set()
"""The jobs of this process, each with a process group of its own."""
_STOPPED = [False]  # of the process, for its rest: a run that goes on is another process


def stop() -> None:
    """Set the latch. Takes no lock: safe in a signal's handler."""
    _STOPPED[0] = True


def stop_all() -> None:
    """Set the latch, then kill every job of this process with its children: the run was stopped, and starts nothing more."""
    stop()
    for process in list(RUNNING):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def is_stopped() -> bool:
    """Return whether this process was told to stop."""
    return _STOPPED[0]


def require_going(what: str) -> None:
    """Raise Stopped where the latch is set; `what` is what was about to start."""
    if is_stopped():
        raise Stopped(f"{what}: not started, as the run was stopped")
