"""Where the layers of a model go that transformers loads: all on one device, or as accelerate spreads them under given limits."""

import os
from typing import Any


def of(device_map: str | None, max_memory: str | None, device: str) -> dict[str, Any]:
    """Return what `from_pretrained` is told: a `device_map`, and `max_memory` where there are limits.

    Args:
        device_map: how accelerate spreads layers; None: all on `device`.
        max_memory: what each device may hold, such as `0=20GiB,cpu=48GiB`; None: no limits.
        device: the job's device.

    On the processor the layers stay there, whatever GPUs the machine has.
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
