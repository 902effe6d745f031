"""Calls a command that must not outlive us: in a session of its own, with a time limit, ended with all its children."""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

from quantmill.errors import QuantmillError

_GRACE_S = 10.0
_LOOK_S = 0.05


def call(command: Sequence[str], environment: Mapping[str, str], limit_s: float | None, option: str) -> None:
    """Call a command and wait until it ends.

    Its children end with it: the command has a process group of its own, which gets SIGTERM and, ten seconds later, SIGKILL where
    the limit is over or where we are stopped. A SIGKILL of ours leaves the group; systemd and containers end it then.

    Args:
        command: The program and its arguments; no shell.
        environment: What is added to ours.
        limit_s: Seconds that it may take; None: as long as it takes.
        option: The name of the option that names it, for messages.

    Raises:
        QuantmillError: it ended with another code than 0, or took longer than the limit.
    """
    words = f"{option}: {shlex.join(command)}"
    process = subprocess.Popen(command, env=os.environ | environment, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        code = process.wait(limit_s)
    except subprocess.TimeoutExpired as error:
        _end(process)
        raise QuantmillError(
            f"{words}: took longer than {limit_s:g} s and was ended; called again in the next round"
        ) from error
    except BaseException:
        _end(process)
        raise
    if code:
        raise QuantmillError(f"{words}: ended with {code}; called again in the next round")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the command's whole group; a second signal to us does not cut this short."""
    before = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        _signal(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_S
        while _is_there(process) and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
        _signal(process.pid, signal.SIGKILL)
        process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_there(process: "subprocess.Popen[bytes]") -> bool:
    """Return whether any process of the group is left; the command itself is reaped on the way."""
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _signal(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return
