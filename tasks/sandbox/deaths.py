"""Finds out how a job died, from its exit code, its result file and the kernel's counts.

The causes are: out of memory, a full disk, a signal, an error of the engine.
"""

import json
import os
import signal
from contextlib import suppress
from pathlib import Path

from quantmill.errors import DiskFull, EngineError, Killed, OutOfMemory, error_named
from quantmill.machine import disk


class KillWatch:
    """Detects out-of-memory kills by the kernel's counts for each control group (version 2 and 1)."""

    def __init__(self) -> None:
        """Start with this process's group; a job is in the same group unless something moves it."""
        self._before: dict[Path, int] = {}
        self.look("self")

    def look(self, pid: int | str) -> None:
        """Also watch the group that a process is in now."""
        events = memory_events(pid)
        if events is not None and events not in self._before:
            self._before[events] = memory_kills(events)

    def struck(self) -> bool:
        """Return whether the kernel has killed a process in a watched group since the watch began."""
        return any(memory_kills(events) > before for events, before in self._before.items())


def memory_events(
    pid: int | str, processes: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")
) -> Path | None:
    """Return the file with the kernel's count of kills in a process's group; None if there is no file."""
    with suppress(OSError, ValueError):
        for line in (processes / str(pid) / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            root, name = {"memory": (groups / "memory", "memory.oom_control"), "": (groups, "memory.events")}.get(
                controllers, (groups, "")
            )
            # A container sees its own group at the root, whatever the group's path is outside.
            for place in (root / path.lstrip("/"), root):
                if name and (place / name).is_file():
                    return place / name
    return None


def memory_kills(events: Path) -> int:
    """Return the number of kills in a file of `memory_events`; 0 if the file or the count is missing."""
    with suppress(OSError, ValueError, StopIteration):
        return int(next(line.split()[1] for line in events.read_text().splitlines() if line.startswith("oom_kill ")))
    return 0


def raise_death(kind: str, result: Path, code: int, peak: int, memory_kill: bool, log: Path) -> None:
    """Raise the error for the way in which a job ended; return if the job succeeded."""
    if code == 0 and result.exists():
        return
    if result.exists():
        died = json.loads(result.read_bytes())
        held = f" (it held {peak / 1e9:.1f} GB)" if died["error"] == "OutOfMemory" else ""
        raise error_named(died["error"], f"{died['message']}{held}; log: {log}")
    if code in (-signal.SIGBUS, *range(256)) and (full := _of_a_full_disk(kind, result.parent, code, log)):
        raise full
    if code < 0:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if code == -signal.SIGKILL and (memory_kill or peak > 0.9 * total):
            raise OutOfMemory(f"{kind} was killed holding {peak / 1e9:.1f} GB of {total / 1e9:.1f} GB; log: {log}")
        raise Killed(f"{kind} was killed by {signal.Signals(-code).name}; log: {log}")
    raise EngineError(f"{kind} ended with code {code}: {_last_lines(log)}; log: {log}")


def _of_a_full_disk(kind: str, folder: Path, code: int, log: Path) -> DiskFull | None:
    """Return DiskFull if a job left no result because the disk is full, else None.

    A full disk may have cut the log too, so the free space counts as well as the log's last lines.
    """
    last = _last_lines(log)
    if not disk.has_no_room(folder) and not disk.is_full(OSError(last)):
        return None
    died = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return disk.disk_full(folder, f"{kind} {died}{last and f': {last}'}; log: {log}")


def _last_lines(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")[1:]  # the sandbox wrote the first line
    return " | ".join(lines[-4:]).strip(" |")[-400:]
