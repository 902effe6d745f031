"""Tells a job about its process and its machine. A job's working folder is an empty scratch folder."""

import os
import resource
from contextlib import suppress
from pathlib import Path

from quantmill.machine import locks, processor
from tasks.sandbox.deaths import memory_events

MACHINE_FD = -1  # the descriptor of the machine's lock, which this job holds
_NO_LIMIT = 1 << 60
_HELD = {resource.RLIMIT_AS: "VmSize", resource.RLIMIT_DATA: "VmData", resource.RLIMIT_RSS: "VmRSS"}
"""Limit (`ulimit -v`, `-d`, `-m`) -> the field of /proc/PID/status that counts against it.

Linux does not enforce `ulimit -m`, but `free_bytes` respects it.
"""


def threads() -> int:
    """Return the number of threads that an engine may use."""
    return int(os.environ["OMP_NUM_THREADS"])


def share_machine() -> None:
    """Let other jobs run beside this job from now on; call this after the speed was measured."""
    locks.share(MACHINE_FD)


def hardware(device: str) -> str:
    """Return the name of the processor, or of the GPU if the device is a GPU."""
    if device != "cpu":
        import torch

        return str(torch.cuda.get_device_name(device))
    return processor()


def compile_nothing(device: str) -> None:
    """Keep GPTQModel and AutoRound from compiling on a CPU: this takes minutes and needs a C++ compiler."""
    if device == "cpu":
        os.environ["TORCHDYNAMO_DISABLE"] = "1"


def peak_memory(pid: int | str = "self") -> int:
    """Return the peak resident memory (VmHWM) of a process in bytes; 0 if it cannot be read.

    `ru_maxrss` would not do: a child inherits it from a large parent.
    """
    with suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def free_bytes(processes: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many bytes this process may still allocate; a large number if no limit is known."""
    status = _fields(processes / "self" / "status")
    found = [_fields(processes / "meminfo").get("MemAvailable", _NO_LIMIT)]
    for limit, held in _HELD.items():
        soft = resource.getrlimit(limit)[0]
        if soft != resource.RLIM_INFINITY:
            found.append(soft - status.get(held, 0))
    if events := memory_events("self", processes, groups):
        found += [left for place in _above(events.parent, groups) if (left := _left(place)) is not None]
    return max(0, min(found))


def _above(place: Path, groups: Path) -> list[Path]:
    """Return a control group and the groups that contain it."""
    return [place, *(parent for parent in place.parents if parent.is_relative_to(groups) and parent != groups)]


def _left(group: Path) -> int | None:
    """Return how many bytes a control group may still allocate, or None without a limit.

    Cached files that the kernel can drop count as free.
    """
    for limit, held, droppable in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        with suppress(OSError, ValueError):
            most = int((group / limit).read_text())  # version 2 says `max`
            if most < _NO_LIMIT:
                lines = (line.split() for line in (group / "memory.stat").read_text().splitlines())
                files = next((int(count) for name, count in lines if name == droppable), 0)
                return most - int((group / held).read_text()) + files
    return None


def _fields(path: Path) -> dict[str, int]:
    """Return the fields of a /proc file whose unit is kB, converted to bytes."""
    found = dict[str, int]()
    with suppress(OSError):
        for line in path.read_text().splitlines():
            words = line.split()
            if len(words) == 3 and words[2] == "kB":
                found[words[0].rstrip(":")] = int(words[1]) * 1024
    return found
