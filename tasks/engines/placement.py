"""Where the layers of a model go that transformers loads: all on one device, or as accelerate spreads them under given limits."""

import os
from typing import Any

from quantmill.recipe.variants import VariantSpec


def of(spec: VariantSpec, device: str) -> dict[str, Any]:
    """Return what `from_pretrained` is told: a `device_map`, and `max_memory` where there are limits.

    On the processor the layers stay there, whatever GPUs the machine has.
    """
    if spec.device_map is None:
        return {"device_map": device}
    limits: dict[str, str] = dict(part.split("=") for part in (spec.max_memory or "").split(",") if part)
    if device == "cpu":
        limits = {"cpu": limits.get("cpu", str(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")))}
    sizes = {int(name) if name.isdigit() else name: _size(size) for name, size in limits.items()}
    return {"device_map": spec.device_map} | ({"max_memory": sizes} if sizes else {})


def _size(text: str) -> int | str:
    return int(text) if text.isdigit() else text
