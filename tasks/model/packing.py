"""Recognises a checkpoint that is quantized already: by `quantization_config` in its config.json, or by its GGUF header."""

import re
from collections.abc import Mapping
from typing import Any

from quantmill.errors import SourceError
from quantmill.recipe.methods import METHODS
from quantmill.recipe.packing import Packing

_WIDEST = 16


def of_config(config: Mapping[str, Any]) -> Packing | None:
    """Return how the config says that the weights are packed, or None: they are plain.

    Raises:
        SourceError: they are packed in a way that is not read here, or the config does not say how.
    """
    said = config.get("quantization_config")
    if not isinstance(said, dict):
        return None
    name = str(said.get("quant_method", "some method"))
    known = {row.quant_method: row for row in METHODS.values() if row.quant_method}
    if name not in known:
        read = ", ".join(known)
        raise SourceError(f"quantized with {name} already, {read} are read; name the original model")
    return known[name].packing_of(said)


def of_gguf(file_type: object, tensor_types: list[str]) -> Packing:
    """Return how a GGUF file is packed: the type that its header states, else the one that most tensors have."""
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
