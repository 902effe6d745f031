"""The latch of a stop: once a process was told to stop, nothing starts in it, in whichever thread and between whichever jobs.

A stop reaches the event loop. Stages run in threads, which no one can cancel: each asks here before it starts something.
"""

from quantmill.errors import Stopped

WORDS = "stopped: nothing more starts; the same command goes on with what is missing"
_STOPPED = [False]  # of the process, for its rest: a run that goes on is another process


def stop() -> None:
    """Set the latch. Takes no lock: safe in a signal's handler."""
    _STOPPED[0] = True


def is_stopped() -> bool:
    """Return whether this process was told to stop."""
    return _STOPPED[0]


def require_going(what: str) -> None:
    """Raise Stopped where the latch is set; `what` is what was about to start."""
    if is_stopped():
        raise Stopped(f"{what}: not started, as the run was stopped")
