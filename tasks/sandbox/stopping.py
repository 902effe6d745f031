"""The latch of a stop: after a process was told to stop, none of its threads starts another job.

A stop reaches the event loop. Stages run in threads, which cannot be cancelled: each thread checks the latch before it
starts something.
"""

import os
import signal
import subprocess
from contextlib import suppress

from quantmill.errors import Stopped

WORDS = "stopped: nothing more starts; the same command goes on with what is missing"
RUNNING: set[subprocess.Popen[bytes]] = set()
"""The running jobs of this process; each leads its own process group."""
_STOPPED = [False]  # never reset: a run that is continued is another process


def stop() -> None:
    """Set the latch. This takes no lock, so a signal handler may call it."""
    _STOPPED[0] = True


def stop_all() -> None:
    """Set the latch, then kill every job of this process with its children."""
    stop()
    for process in list(RUNNING):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def is_stopped() -> bool:
    """Return whether this process was told to stop."""
    return _STOPPED[0]


def require_going(what: str) -> None:
    """Raise Stopped if the latch is set; `what` names the work that was about to start."""
    if is_stopped():
        raise Stopped(f"{what}: not started, as the run was stopped")
