"""Recognises a checkpoint that is quantized already: by `quantization_config` in its config.json, or by its GGUF header."""

import re
from collections.abc import Mapping
from typing import Any

from quantmill.errors import SourceError
from quantmill.recipe.method_row import MethodName
from quantmill.recipe.packing import Packing

_METHODS: dict[str, MethodName] = {
    "gptq": "gptq",
    "awq": "awq",
    "auto-round": "autoround",
    "bitsandbytes": "bitsandbytes",
}
_WIDEST = 16
_FOUR_BIT = ("nf4", "fp4")
_LARGEST_GROUP = 1 << 20


def of_config(config: Mapping[str, Any]) -> Packing | None:
    """Return how the config says that the weights are packed, or None: they are plain.

    Raises:
        SourceError: they are packed in a way that is not read here, or the config does not say how.
    """
    said = config.get("quantization_config")
    if not isinstance(said, dict):
        return None
    name = str(said.get("quant_method", "some method"))
    if name not in _METHODS:
        known = ", ".join(_METHODS)
        raise SourceError(f"model.source: quantized with {name} already, {known} are read; name the original model")
    if name == "bitsandbytes":
        if said.get("load_in_8bit"):
            return Packing(method="bitsandbytes", bits=8, type="int8")
        if (kind := said.get("bnb_4bit_quant_type", "fp4")) not in _FOUR_BIT:  # it becomes a part of names
            raise SourceError(
                f"model.source: bnb_4bit_quant_type: {str(kind)[:80]!r}: {' and '.join(_FOUR_BIT)} are read"
            )
        return Packing(method="bitsandbytes", bits=4, type=kind)
    bits, group = said.get("bits"), said.get("group_size")
    if type(bits) is not int or not 1 <= bits <= _WIDEST:
        raise SourceError(f"model.source: quantized with {name} already, and its config states no bits: {bits!r}")
    if type(group) is int and group != -1 and not 0 <= group <= _LARGEST_GROUP:
        raise SourceError(f"model.source: group_size: {str(group)[:80]}: -1, or at most {_LARGEST_GROUP}")
    mixed = bool(said.get("dynamic") or said.get("extra_config"))
    return Packing(method=_METHODS[name], bits=bits, group_size=group if type(group) is int else 0, mixed=mixed)


def of_gguf(file_type: object, tensor_types: list[str]) -> Packing:
    """Return how a GGUF file is packed: the type that its header states, else the one that most tensors have."""
    from gguf import LlamaFileType

    try:
        name = LlamaFileType(file_type).name.partition("_")[2]
    except ValueError:
        name = ""
    if not name and not tensor_types:
        raise SourceError("model.source: the GGUF holds no tensor")
    name = name or max(set(tensor_types), key=tensor_types.count)
    digits = re.search(r"\d+", name)
    return Packing(method="gguf", bits=int(digits.group()) if digits else _WIDEST, type=name)
