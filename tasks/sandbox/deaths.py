"""How a job died: out of memory, killed, stopped by its engine; told from its exit code, its result and the system."""

import json
import os
import signal
from contextlib import suppress
from pathlib import Path

from quantmill.errors import DiskFull, EngineError, Killed, OutOfMemory, error_named
from quantmill.machine import disk


class KillWatch:
    """Notices kills for want of memory, by the counts that the kernel keeps of each control group (version 2, and 1)."""

    def __init__(self) -> None:
        """Start with our own group, which a job is in unless it is moved."""
        self._before: dict[Path, int] = {}
        self.look("self")

    def look(self, pid: int | str) -> None:
        """Take note of the group that a process is in now."""
        events = memory_events(pid)
        if events is not None and events not in self._before:
            self._before[events] = memory_kills(events)

    def struck(self) -> bool:
        """Return whether the kernel has killed in one of these groups since."""
        return any(memory_kills(events) > before for events, before in self._before.items())


def memory_events(
    pid: int | str, processes: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")
) -> Path | None:
    """Return the file in which the kernel counts its kills in a process's group; None where the system has none."""
    with suppress(OSError, ValueError):
        for line in (processes / str(pid) / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            root, name = {"memory": (groups / "memory", "memory.oom_control"), "": (groups, "memory.events")}.get(
                controllers, (groups, "")
            )
            # A container sees its own group at the root, whatever its path is called outside.
            for place in (root / path.lstrip("/"), root):
                if name and (place / name).is_file():
                    return place / name
    return None


def memory_kills(events: Path) -> int:
    """Return how often the kernel killed there; 0 where the file does not say, or the group is gone."""
    with suppress(OSError, ValueError, StopIteration):
        return int(next(line.split()[1] for line in events.read_text().splitlines() if line.startswith("oom_kill ")))
    return 0


def raise_death(kind: str, result: Path, code: int, peak: int, memory_kill: bool, log: Path) -> None:
    """Raise the error that the job's end means; return where it ended well."""
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
    """Return the error of a job that left no result because there was no room for it; its log may lack the words too."""
    last = _last_lines(log)
    if not disk.has_no_room(folder) and not disk.is_full(OSError(last)):
        return None
    died = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return disk.disk_full(folder, f"{kind} {died}{last and f': {last}'}; log: {log}")


def _last_lines(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")[1:]  # the first is the sandbox's
    return " | ".join(lines[-4:]).strip(" |")[-400:]
