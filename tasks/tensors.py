"""What became of each weight, read from the safetensors headers of source and artifact."""

import json
import math
from pathlib import Path

from quantmill.artifact import QuantizedTensor

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_FLOATS = {"F64": "f64", "F32": "f32", "F16": "f16", "BF16": "bf16"}
_OUTSIDE = ("embed", "wte", "wpe", "lm_head", "norm", "ln_")

Header = dict[str, tuple[str, tuple[int, ...]]]


def read_headers(folder: Path) -> Header:
    """Return tensor name -> (dtype, shape) over all safetensors files of a folder."""
    found: Header = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        found |= {name: (e["dtype"], tuple(e["shape"])) for name, e in header.items() if name != "__metadata__"}
    return found


def account(source: Path, out: Path, scheme: str, replaced: dict[str, str] | None = None) -> list[QuantizedTensor]:
    """Return one record per weight of the source.

    A matrix of the decoder that is still a float while `scheme` is an integer type counts as a fallback.

    Args:
        source: the snapshot's folder.
        out: the artifact's folder.
        scheme: what the method makes of a matrix.
        replaced: end of a module's name -> why the engine did something else there.
    """
    made, records = read_headers(out), []
    for name, (_, shape) in sorted(read_headers(source).items()):
        parameters = math.prod(shape)
        stem = name.removesuffix(".weight")
        kept = made.get(name)
        reason = next((why for module, why in (replaced or {}).items() if stem.endswith(module)), "")
        if kept and kept[0] in _FLOATS and math.prod(kept[1]) == parameters:
            matrix = len(shape) == 2 and not any(word in name for word in _OUTSIDE)
            reason = reason or (f"left in {_FLOATS[kept[0]]}" if matrix and scheme not in _FLOATS.values() else "")
            records.append(_record(name, _FLOATS[kept[0]], 8.0 * _BYTES[kept[0]], parameters, reason))
            continue
        parts = [made[part] for part in made if part == name or part.startswith((f"{stem}.", f"{name}."))]
        if parts:
            stored = sum(_BYTES[kind] * math.prod(size) for kind, size in parts)
            records.append(_record(name, scheme, 8 * stored / parameters, parameters, reason))
    return records


def _record(name: str, scheme: str, bits: float, parameters: int, fallback: str) -> QuantizedTensor:
    return QuantizedTensor(name=name, scheme=scheme, bits=bits, parameters=parameters, fallback=fallback)
