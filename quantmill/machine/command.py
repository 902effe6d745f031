"""Calls a command with a time limit and ends it with all its children."""

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

    The command runs in a session and process group of its own. After the time limit, or when this process is stopped, the group
    gets SIGTERM and ten seconds later SIGKILL. If this process is killed with SIGKILL, the group lives on until systemd or the
    container ends it.

    Args:
        command: The program and its arguments; no shell.
        environment: Variables added to this process's environment.
        limit_s: Seconds that the command may take; None: no limit.
        option: The command line option that names the command, for messages.

    Raises:
        QuantmillError: the command's exit status is not 0, or the command took longer than the limit.
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
    """End the command's whole group; further signals to this process are ignored meanwhile."""
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
    """Reap the command if it has ended and return whether any process of its group is left."""
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
