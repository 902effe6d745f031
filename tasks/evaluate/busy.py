"""Measures how busy a machine was with other work; a speed beside other work says nothing.

Three things make a machine busy. The first is the CPU time of other processes and of the hypervisor (steal), divided by the
wall time of the cores that this process may use. The second is the time for which a quota throttled the control group. The
third is another process on the GPU.
"""

import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_RESOLUTION_S = 5 * _TICK_S
"""The kernel counts whole ticks for each core, so a shorter time cannot be told from zero."""
_IDLE = (3, 4)  # idle, iowait
_FIELDS = 8  # user nice system idle iowait irq softirq steal; guests are counted in user
_LOOK_S = 1.0


class Readings(Protocol):
    """The readings that a measurement needs; tests give readings of their own."""

    def clock(self) -> float:
        """Return the time of a monotonic clock, in seconds."""
        ...

    def own_s(self) -> float:
        """Return the CPU time of this process and its children, in seconds."""
        ...

    def stat(self) -> str:
        """Return the text of /proc/stat; empty if there is no such file."""
        ...

    def cores(self) -> set[int]:
        """Return the numbers of the cores that this process may use."""
        ...

    def throttled_s(self) -> float:
        """Return for how many seconds the control group was throttled so far; 0 without a quota."""
        ...

    def on_gpu(self) -> int:
        """Return how many processes compute on the GPU; 0 if unknown."""
        ...


class System:
    """The readings of the operating system."""

    def __init__(
        self, device: str = "cpu", groups: Path = Path("/sys/fs/cgroup"), processes: Path = Path("/proc")
    ) -> None:
        """Take the device, and the folders of control groups and processes."""
        self._device, self._groups, self._processes = device, groups, processes

    def clock(self) -> float:
        """Return the time of a monotonic clock, in seconds."""
        return time.perf_counter()

    def own_s(self) -> float:
        """Return the CPU time of this process and its children, in seconds."""
        return sum(os.times()[:4])

    def stat(self) -> str:
        """Return the text of /proc/stat; empty if there is no such file."""
        path = self._processes / "stat"
        return path.read_text() if path.is_file() else ""

    def cores(self) -> set[int]:
        """Return the numbers of the cores that this process may use."""
        return set(os.sched_getaffinity(0))

    def throttled_s(self) -> float:
        """Return for how many seconds the control group was throttled so far; 0 without a quota."""
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
        """Return how many processes nvidia-smi lists on the GPU; 0 without a GPU, or if unknown."""
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
    """The shares of a stretch of time that this process did not get."""

    others: float
    """CPU time of other processes and steal, divided by the cores' wall time."""
    throttled: float
    """Time for which the control group was throttled, divided by the wall time."""
    shares_gpu: bool = False


class Stretch:
    """A stretch of time during which something is measured."""

    def __init__(self, readings: Readings) -> None:
        """Begin the stretch now."""
        self._readings = readings
        self._began = (readings.clock(), readings.own_s(), _worked(readings), readings.throttled_s())

    def shares(self) -> Shares:
        """Return the shares that this process did not get from the beginning until now."""
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
    """Return whether the machine did no other work during one second.

    The caller must have nothing on the GPU: any process there counts as other work.
    """
    readings = System(device)
    stretch = Stretch(readings)
    time.sleep(_LOOK_S)
    found = stretch.shares()
    return limit >= 1 or (max(found.others, found.throttled) <= limit and not readings.on_gpu())


def _worked(readings: Readings) -> float:
    """Return the seconds for which the cores have worked so far, for any process and for the hypervisor."""
    ours, worked = {f"cpu{number}" for number in readings.cores()}, 0
    for line in readings.stat().splitlines():
        name, *ticks = line.split()
        if name in ours:
            worked += sum(int(count) for place, count in enumerate(ticks[:_FIELDS]) if place not in _IDLE)
    return worked * _TICK_S


def _throttled(text: str) -> float:
    """Return the throttled seconds in the text of a control group's cpu.stat (version 2 or 1)."""
    for line in text.splitlines():
        name, _, count = line.partition(" ")
        if name in ("throttled_usec", "throttled_time"):
            return int(count) / {"throttled_usec": 1e6, "throttled_time": 1e9}[name]
    return 0.0
