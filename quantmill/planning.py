"""Bytes before a run: pure functions of what is known from headers."""

import json
import math
from pathlib import Path

from quantmill.artifact import Origin

_BYTES_PER_WEIGHT_BF16 = 2
_COPIES_ALWAYS = 2  # the snapshot and the baseline's artifact
_COPIES_GGUF = 3  # BF16 conversion, F32 for the runtime's noise floor (twice as wide)


def disk_bytes(origin: Origin, variants: int) -> int:
    """Return an upper estimate of the bytes that a run of so many variants leaves on disk, scratch included.

    No variant is larger than the bf16 model. A GGUF source is taken as the 4 bits per weight that most have.
    """
    source = sum(file.size_bytes for file in origin.files)
    bf16 = source * (4 if origin.kind == "gguf" else 1)
    return bf16 * (_COPIES_ALWAYS + _COPIES_GGUF) + bf16 * variants // _BYTES_PER_WEIGHT_BF16


def count_parameters(weights: list[Path]) -> int:
    """Return the number of weights in safetensors files, from their headers (u64 length, then JSON)."""
    total = 0
    for path in weights:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        total += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return total
