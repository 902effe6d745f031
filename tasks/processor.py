"""The class of this machine's processor, and the arithmetic in which engines compute.

Only this module decides on the arithmetic. Engines that would inspect the processor get its decision instead, so that
the machine never changes the types in a file. Without bf16 instructions, a matrix product in bf16 takes several times
as long as in fp32.
"""

import os
import platform
from collections.abc import Mapping
from pathlib import Path

from quantmill.errors import ProcessorMismatch
from quantmill.records.job import VariantJob

_CLASSES = (("amx_bf16", "amx-bf16"), ("avx512_bf16", "avx512-bf16"), ("avx512f", "avx512"), ("avx2", "avx2"))
_LIMITS = {"avx512_core": "avx512", "avx512_core_vnni": "avx512", "avx2": "avx2", "default": "baseline"}
_RANK = ("baseline", "avx2", "avx512", "avx512-bf16", "amx-bf16")


def of_this_machine() -> str:
    """Return this machine's processor class, such as `avx2` or `avx512-bf16`.

    Environment variables that limit what torch uses lower the class.
    """
    path = Path("/proc/cpuinfo")
    return processor_class(path.read_text() if path.exists() else "", platform.machine(), os.environ)


def processor_class(cpuinfo: str, machine: str, environment: Mapping[str, str]) -> str:
    """Return the class of a processor; processors of one class make equal bytes.

    Args:
        cpuinfo: the content of /proc/cpuinfo.
        machine: the architecture, such as `x86_64`.
        environment: the environment variables; ONEDNN_MAX_CPU_ISA and ATEN_CPU_CAPABILITY limit the class.
    """
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    features = next((set(value.split()) for name, _, value in lines if name.strip() in ("flags", "Features")), set())
    if machine != "x86_64":
        return f"{machine}-bf16" if "bf16" in features else machine
    found = next((name for feature, name in _CLASSES if feature in features), "baseline")
    for variable in ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"):
        found = min(found, _LIMITS.get(environment.get(variable, "").lower(), found), key=_RANK.index)
    return found


def arithmetic(processor: str) -> str:
    """Return `bfloat16` if processors of this class have bf16 instructions, else `float32`."""
    return "bfloat16" if processor.endswith("-bf16") else "float32"


def require(job: VariantJob) -> None:
    """Raise ProcessorMismatch if a job needs another processor class than this machine's.

    Only a job whose bytes depend on the processor names a class.
    """
    if job.processor and (here := of_this_machine()) != job.processor:
        raise ProcessorMismatch(f"{job.name}: planned for a processor of class {job.processor}, this one is {here}")
