"""Bytes before a run: pure functions of what is known from headers."""

import json
import math
from collections.abc import Iterable
from pathlib import Path

from quantmill.artifact import Origin
from quantmill.variants import VariantSpec

_FIXED_BITS = 16 + 16 + 16 + 32  # snapshot, baseline, GGUF conversion, F32 for llama.cpp's noise floor
_HEAD_BYTES = 4
_SLACK_BITS = 4  # scales, and embeddings and head that stay in bf16: what small models have most of


def disk_bytes(origin: Origin, specs: Iterable[VariantSpec]) -> int:
    """Return an upper estimate of the bytes that a run leaves on disk, scratch included.

    A GGUF source is taken as the 4 bits per weight that most have.
    """
    weights = sum(file.size_bytes for file in origin.files) * 8 // (4 if origin.kind == "gguf" else 16)
    bits = _FIXED_BITS + sum(spec.bits + _SLACK_BITS for spec in specs)
    shape = origin.architecture
    return weights * bits // 8 + shape.vocabulary_size * shape.hidden_size * _HEAD_BYTES


def count_parameters(weights: list[Path]) -> int:
    """Return the number of weights in safetensors files, from their headers (u64 length, then JSON)."""
    total = 0
    for path in weights:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        total += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return total
