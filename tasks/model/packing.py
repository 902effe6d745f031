"""Recognises quantized checkpoints by `quantization_config` in config.json, or by the GGUF header."""

import re
from collections.abc import Mapping
from typing import Any

from quantmill.errors import SourceError
from quantmill.recipe.methods import METHODS
from quantmill.recipe.packing import Packing

_WIDEST = 16


def of_config(config: Mapping[str, Any]) -> Packing | None:
    """Return the packing of the weights that the config states, or None for plain weights.

    Raises:
        SourceError: the packing is not supported, or the config does not describe it.
    """
    said = config.get("quantization_config")
    if not isinstance(said, dict):
        return None
    name = str(said.get("quant_method", "some method"))
    known = {row.quant_method: row for row in METHODS.values() if row.quant_method}
    if name not in known:
        read = ", ".join(known)
        raise SourceError(f"quantized with {name} already; supported are {read}; name the original model")
    return known[name].packing_of(said)


def of_gguf(file_type: object, tensor_types: list[str]) -> Packing:
    """Return the packing of a GGUF file: the type in its header, else the most frequent tensor type."""
    from gguf import LlamaFileType

    try:
        name = LlamaFileType(file_type).name.partition("_")[2]
    except ValueError:
        name = ""
    if not name and not tensor_types:
        raise SourceError("the GGUF holds no tensor")
    name = name or max(set(tensor_types), key=tensor_types.count)
    digits = re.search(r"\d+", name)
    return Packing(method="gguf", bits=int(digits.group()) if digits else _WIDEST, type=name)
