"""The class of a machine: device name, threads, arithmetic. Speeds compare within one class.

This module imports no engine.
"""

import os
import platform
from pathlib import Path
from typing import NamedTuple


class MachineClass(NamedTuple):
    """The class of a machine that a speed was measured on."""

    hardware: str
    """The processor with its number of cores, or the GPU; empty: unknown."""
    threads: int
    arithmetic: str
    """The type in which the device multiplies fast: `bfloat16` or `float32`."""

    def __str__(self) -> str:
        """Return the class as text for people."""
        return f"{self.hardware or 'unknown hardware'}, {self.threads} threads, {self.arithmetic}"


def class_of(device: str, threads: int, arithmetic: str) -> MachineClass:
    """Return this machine's class for jobs on `device` (`cpu`, `cuda`, `cuda:N`) with `threads` threads.

    `arithmetic`: the type in which the processor multiplies fast.
    """
    if device == "cpu":
        return MachineClass(processor(), threads, arithmetic)
    names = gpus()
    place = int(device.partition(":")[2] or 0)
    return MachineClass(names[place] if place < len(names) else "", threads, "bfloat16")


def processor(told: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name with the number of cores that this process may use."""
    names = [line.partition(":")[2].strip() for line in _lines(told) if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()} ({len(os.sched_getaffinity(0))} cores)"


def gpus(driver: Path = Path("/proc/driver/nvidia/gpus")) -> tuple[str, ...]:
    """Return the names of the NVIDIA GPUs from the driver's files, in the order of their bus addresses."""
    told = (_lines(path) for path in sorted(driver.glob("*/information")))
    return tuple(line.partition(":")[2].strip() for lines in told for line in lines if line.startswith("Model:"))


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines() if path.is_file() else []
