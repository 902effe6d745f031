"""Whether a machine was busy with other work while something was measured: a speed beside other work says nothing.

Busy is the processor time of other processes, with what a hypervisor took away (steal), over the wall time of the cores that
this process may use; where a control group has a quota, the time that it was throttled; on a GPU, another process there.
"""

import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_RESOLUTION_S = 5 * _TICK_S
"""The kernel counts whole ticks for each core: what is smaller than these cannot be told from nothing."""
_IDLE = (3, 4)  # idle, iowait
_FIELDS = 8  # user nice system idle iowait irq softirq steal; guests are counted in user
_LOOK_S = 1.0


class Readings(Protocol):
    """What the system says; tests say it in its place."""

    def clock(self) -> float:
        """Return seconds that only go forward."""
        ...

    def own_s(self) -> float:
        """Return the processor time of this process and its children, seconds."""
        ...

    def stat(self) -> str:
        """Return the text of /proc/stat; empty: there is none."""
        ...

    def cores(self) -> set[int]:
        """Return the numbers of the cores that this process may use."""
        ...

    def throttled_s(self) -> float:
        """Return for how long the control group was throttled so far, seconds; 0: no quota."""
        ...

    def on_gpu(self) -> int:
        """Return how many processes compute on the GPUs; 0: not known."""
        ...


class System:
    """The system's own readings."""

    def __init__(
        self, device: str = "cpu", groups: Path = Path("/sys/fs/cgroup"), processes: Path = Path("/proc")
    ) -> None:
        """Read of a device, from these places."""
        self._device, self._groups, self._processes = device, groups, processes

    def clock(self) -> float:
        """Return seconds that only go forward."""
        return time.perf_counter()

    def own_s(self) -> float:
        """Return the processor time of this process and its children, seconds."""
        return sum(os.times()[:4])

    def stat(self) -> str:
        """Return the text of /proc/stat; empty: there is none."""
        path = self._processes / "stat"
        return path.read_text() if path.is_file() else ""

    def cores(self) -> set[int]:
        """Return the numbers of the cores that this process may use."""
        return set(os.sched_getaffinity(0))

    def throttled_s(self) -> float:
        """Return for how long the control group was throttled so far, seconds; 0: no quota."""
        with suppress(OSError, ValueError):
            for line in (self._processes / "self" / "cgroup").read_text().splitlines():
                _, controllers, path = line.split(":", 2)
                if controllers and "cpu" not in controllers.split(","):
                    continue
                root = self._groups / ("cpu" if controllers else "")
                for place in (root / path.lstrip("/"), root):  # a container sees its own group at the root
                    if (place / "cpu.stat").is_file():
                        return _throttled((place / "cpu.stat").read_text())
        return 0.0

    def on_gpu(self) -> int:
        """Return how many processes compute on the GPU, by NVIDIA's own program; 0: not known, or no GPU."""
        if not self._device.startswith("cuda"):
            return 0
        command = ["nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader"]
        index = self._device.partition(":")[2]
        with suppress(OSError, subprocess.SubprocessError):
            asked = subprocess.run(
                [*command, *(["-i", index] if index else [])], capture_output=True, text=True, timeout=10, check=True
            )
            return len(asked.stdout.split())
        return 0


class Shares(NamedTuple):
    """How much of a stretch of time went to others."""

    others: float
    """Processor time of others and steal, over the cores' wall time."""
    throttled: float
    """Time that the control group was held back, over the wall time."""
    shares_gpu: bool = False


class Stretch:
    """A stretch of time that is being measured."""

    def __init__(self, readings: Readings) -> None:
        """Begin now."""
        self._readings = readings
        self._began = (readings.clock(), readings.own_s(), _worked(readings), readings.throttled_s())

    def shares(self) -> Shares:
        """Return what others had of it until now."""
        began, own, worked, throttled = self._began
        now = self._readings
        wall = max(now.clock() - began, 1e-9)
        others = (_worked(now) - worked) - (now.own_s() - own)
        held_back = now.throttled_s() - throttled
        return Shares(
            others / (wall * len(now.cores())) if others > _RESOLUTION_S else 0.0,
            held_back / wall if held_back > _RESOLUTION_S else 0.0,
            now.on_gpu() > 1,
        )


def is_quiet_now(device: str, limit: float) -> bool:
    """Return whether the machine does nothing else, after one second of looking; nothing of ours is on the GPU now."""
    readings = System(device)
    stretch = Stretch(readings)
    time.sleep(_LOOK_S)
    found = stretch.shares()
    return limit >= 1 or (max(found.others, found.throttled) <= limit and not readings.on_gpu())


def _worked(readings: Readings) -> float:
    """Return the seconds that the cores have worked, for anybody, and what a hypervisor took."""
    ours, worked = {f"cpu{number}" for number in readings.cores()}, 0
    for line in readings.stat().splitlines():
        name, *ticks = line.split()
        if name in ours:
            worked += sum(int(count) for place, count in enumerate(ticks[:_FIELDS]) if place not in _IDLE)
    return worked * _TICK_S


def _throttled(text: str) -> float:
    """Return the seconds that a group's cpu.stat says, of version 2 or 1."""
    for line in text.splitlines():
        name, _, count = line.partition(" ")
        if name in ("throttled_usec", "throttled_time"):
            return int(count) / {"throttled_usec": 1e6, "throttled_time": 1e9}[name]
    return 0.0
