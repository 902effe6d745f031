"""How a job died: out of memory, killed, stopped by its engine; told from its exit code, its result and the system."""

import json
import os
import signal
from contextlib import suppress
from pathlib import Path

from quantmill.errors import EngineError, Killed, OutOfMemory, error_named


def peak_memory(pid: int | str = "self") -> int:
    """Return VmHWM of a process in bytes, 0 where it cannot be read (`ru_maxrss` would be inherited from a large parent)."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def memory_kills() -> int:
    """Return how often the kernel killed in our memory group; 0 where the system does not say."""
    with suppress(OSError, ValueError, StopIteration):
        group = Path("/proc/self/cgroup").read_text().split("::", 1)[-1].strip()
        events = Path("/sys/fs/cgroup" + group, "memory.events").read_text().splitlines()
        return int(next(line.split()[1] for line in events if line.startswith("oom_kill ")))
    return 0


def raise_death(kind: str, result: Path, code: int, peak: int, memory_kill: bool, log: Path) -> None:
    """Raise the error that the job's end means; return where it ended well."""
    if code == 0 and result.exists():
        return
    if result.exists():
        died = json.loads(result.read_bytes())
        held = f" (it held {peak / 1e9:.1f} GB)" if died["error"] == "OutOfMemory" else ""
        raise error_named(died["error"], f"{died['message']}{held}; log: {log}")
    if code < 0:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if code == -signal.SIGKILL and (memory_kill or peak > 0.9 * total):
            raise OutOfMemory(f"{kind} was killed holding {peak / 1e9:.1f} GB of {total / 1e9:.1f} GB; log: {log}")
        raise Killed(f"{kind} was killed by {signal.Signals(-code).name}; log: {log}")
    last = " | ".join(log.read_text(errors="replace").split("\n")[-4:]).strip(" |")[-400:]
    raise EngineError(f"{kind} ended with code {code}: {last}; log: {log}")
