"""Chooses the devices of a model's layers: one device, or accelerate's placement under memory limits."""

import os
from typing import Any


def of(device_map: str | None, max_memory: str | None, device: str) -> dict[str, Any]:
    """Return the arguments for `from_pretrained`: `device_map`, and `max_memory` if there are limits.

    Args:
        device_map: accelerate's strategy for placing layers; None: all on `device`.
        max_memory: the memory limit of each device, such as `0=20GiB,cpu=48GiB`; None: no limits.
        device: the job's device.

    If the job's device is the CPU, all layers stay on the CPU even if the machine has GPUs.
    """
    if device_map is None:
        return {"device_map": device}
    limits: dict[str, str] = dict(part.split("=") for part in (max_memory or "").split(",") if part)
    if device == "cpu":
        limits = {"cpu": limits.get("cpu", str(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")))}
    sizes = {int(name) if name.isdigit() else name: _size(size) for name, size in limits.items()}
    return {"device_map": device_map} | ({"max_memory": sizes} if sizes else {})


def _size(text: str) -> int | str:
    return int(text) if text.isdigit() else text
