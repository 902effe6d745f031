"""Restores the source's types of an artifact's unquantized tensors; checks the tensor records.

Engines that compute in fp32 also save unquantized tensors in fp32. The artifact would be half as large again, and its
config would say bf16.
"""

import json
import math
from pathlib import Path

from quantmill.errors import EngineError
from quantmill.files import safetensors_header
from quantmill.files.safetensors_header import BITS
from quantmill.records.artifact import QuantizedTensor
from tasks.model import tensors

_FLOATS = ("F64", "F32", "F16", "BF16")
_TOLERANCE = 0.01  # of the files' bytes: tensors of shapes and flags belong to no weight


def keep(source: Path, out: Path) -> None:
    """Convert unquantized tensors back to the source's types, and state the source's type in the config.

    The conversion is exact if the engine did not change the values. Quantized weights and their scales are left alone,
    because the source has no tensors of their names.
    """
    known = _known(source)
    for path in sorted(out.glob("*.safetensors")):
        wrong = {
            name: known[name].dtype
            for name, (kind, shape) in safetensors_header.read_header(path).items()
            if name in known and kind in _FLOATS and known[name].shape == shape and kind != known[name].dtype
        }
        if wrong:
            _rewrite(path, wrong)
    _say_type(source, out)


def check(source: Path, out: Path, account: list[QuantizedTensor]) -> None:
    """Raise EngineError if the records do not match the files, or a float changed its type without a mark.

    The bytes of the records must equal the files' tensor data within 1 %. A GGUF artifact needs no check: its records are
    read from its own tensors.
    """
    made, known = tensors.read_headers(out), _known(source)
    if not made:
        return
    marked = {record.name for record in account if record.fallback}
    for name, (kind, shape) in made.items():
        before = known.get(name)
        if before and before.shape == shape and kind in _FLOATS and kind != before.dtype and name not in marked:
            raise EngineError(f"{name}: the engine stored {kind}, the source has {before.dtype}")
    stored = sum(record.bits * record.parameters for record in account) / 8
    held = sum(BITS[kind] * math.prod(shape) for kind, shape in made.values()) / 8
    if abs(stored - held) > _TOLERANCE * held:
        raise EngineError(f"the tensor records add up to {stored:.0f} bytes, the files hold {held:.0f}")


def _known(source: Path) -> tensors.Header:
    """Return the source's tensors under their own names and under transformers' names."""
    found = tensors.read_headers(source)
    return found | {tensors.renamed(name): tensor for name, tensor in found.items()}


def _rewrite(path: Path, types: dict[str, str]) -> None:
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    named = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    held |= {name: held[name].to(named[kind]) for name, kind in types.items()}
    whole = path.with_name(f"{path.name}.new")
    save_file(held, whole, metadata=metadata)
    whole.replace(path)


def _say_type(source: Path, out: Path) -> None:
    stated = json.loads((source / "config.json").read_text(encoding="utf-8"))
    path, asked = out / "config.json", stated.get("dtype") or stated.get("torch_dtype")
    if not asked or not path.exists():
        return
    config = json.loads(path.read_text(encoding="utf-8"))
    wrong = {name: asked for name in ("dtype", "torch_dtype") if config.get(name, asked) != asked}
    if wrong:
        text = json.dumps(config | wrong, indent=2, sort_keys=True, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
