"""Starts the processes of a service in order, watches them, and ends them in reverse. Linux only.

The processes end whatever happens: the starter adopts orphans and ends them last, and if the starter is killed the kernel
signals its parts.
"""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from quantmill.errors import ServerError

START_S = 180.0
"""Seconds that a part may take to become healthy: the first start makes databases, perhaps on a busy machine."""
_POLL_S = 0.2
_LAST_LINES = 20
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


@dataclass(frozen=True)
class Part:
    """One process of the service, with its health check."""

    name: str
    command: tuple[str, ...]
    is_healthy: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)
    address: str = ""
    stop_signal: signal.Signals = signal.SIGTERM
    stop_s: float = 15.0
    user: str | None = None


def spawn(part: Part, folder: Path, log: Path, death_signal: signal.Signals | None = None) -> "subprocess.Popen[bytes]":
    """Start a part in a session of its own, and return its process.

    When this process dies, the kernel sends the part `death_signal`, by default the part's stop signal.
    """
    end = death_signal or part.stop_signal

    def die_with_parent() -> None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, end)

    with log.open("ab") as output:
        return subprocess.Popen(
            part.command,
            cwd=folder,
            env=dict(part.environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            user=part.user,
            # Ctrl-C in the terminal reaches only this process, which ends its parts in order.
            start_new_session=True,
            preexec_fn=die_with_parent,
        )


class Running:
    """A part that was started."""

    def __init__(self, part: Part, folder: Path, logs: Path) -> None:
        """Start the part; keep the log of an earlier start beside the new log."""
        self.part, self.log = part, logs / f"{part.name}.log"
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.1"))
        self.began = time.monotonic()
        self.process = spawn(part, folder, self.log)

    def wait_until_healthy(self) -> None:
        """Wait until the part is healthy; raise ServerError if it dies first or takes too long."""
        deadline = time.monotonic() + START_S
        while not self.part.is_healthy():
            if self.process.poll() is not None:
                raise ServerError(self.obituary())
            if time.monotonic() > deadline:
                raise ServerError(f"{self.part.name} was not healthy after {START_S:.0f} s{self._end_of_log()}")
            time.sleep(_POLL_S)

    def obituary(self) -> str:
        """Return how the part died, and the end of its log."""
        code = self.process.returncode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        return f"{self.part.name} {how}{self._end_of_log()}"

    def _end_of_log(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
        return "\n".join([f"; the end of {self.log}:", *(f"    {line}" for line in lines)])

    def ask_to_end(self) -> None:
        """Send the part's own signal for an orderly end."""
        if self.process.poll() is None:
            self.process.send_signal(self.part.stop_signal)

    def end(self, wait_s: float) -> bool:
        """Wait for the part's end, then kill the rest of its session; return whether it ended by itself."""
        orderly = True
        try:
            self.process.wait(wait_s)
        except subprocess.TimeoutExpired:
            orderly = False
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        return orderly


class Processes:
    """The parts of a service, in stages: each stage starts when the one before it is healthy."""

    def __init__(self, folder: Path, tell: Callable[[str], None], settled_s: float = 60.0) -> None:
        """Keep logs in `folder/logs`.

        Args:
            folder: where parts run.
            tell: gets messages for a person.
            settled_s: a part that dies this many seconds after its start is started again; an earlier death is an error.
        """
        self._settled_s = settled_s
        self._folder, self._logs, self._tell = folder, folder / "logs", tell
        self._stages: list[list[Running]] = []
        self._logs.mkdir(parents=True, exist_ok=True)

    def start(self, *parts: Part) -> None:
        """Start parts at once and wait until all are healthy.

        Raises:
            ServerError: a part did not become healthy; the message has the end of its log.
        """
        stage: list[Running] = []
        self._stages.append(stage)
        for part in parts:
            stage.append(Running(part, self._folder, self._logs))
        for running in stage:
            running.wait_until_healthy()

    def watch(self) -> None:
        """Call `look` for ever."""
        while True:
            self.look()
            time.sleep(_POLL_S)

    def look(self) -> None:
        """Start each part again that died after it had settled.

        Raises:
            ServerError: a part died soon after its start; the message has the end of its log.
        """
        for stage in self._stages:
            for at, running in enumerate(stage):
                if running.process.poll() is not None:
                    stage[at] = self._again(running)

    def _again(self, running: Running) -> Running:
        if time.monotonic() - running.began < self._settled_s:
            raise ServerError(running.obituary())
        self._tell(f"{running.obituary()}\nstarting {running.part.name} again")
        running.end(0)
        anew = Running(running.part, self._folder, self._logs)
        anew.wait_until_healthy()
        self._tell(f"{running.part.name} is healthy again")
        return anew

    def stop(self, is_hurried: Callable[[], bool] = lambda: False) -> None:
        """End all parts, the last stage first; kill parts that do not end in time, or at once if hurried."""
        for stage in reversed(self._stages):
            for running in stage:
                running.ask_to_end()
            deadlines = {running: time.monotonic() + running.part.stop_s for running in stage}
            while not is_hurried() and any(r.process.poll() is None and time.monotonic() < deadlines[r] for r in stage):
                time.sleep(_POLL_S)
            for running in stage:
                if not running.end(0):
                    self._tell(f"{running.part.name} did not end in time and was killed")


def adopt_orphans() -> None:
    """Become the parent of all processes that the parts leave behind, in any session."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_children() -> None:
    """Kill all children of this process, adopted children too, until none is left."""
    while left := [int(pid) for task in Path("/proc/self/task").iterdir() for pid in _children(task)]:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _children(task: Path) -> list[str]:
    try:
        return (task / "children").read_text().split()
    except OSError:  # the thread is gone, or a kernel without this file
        return []
