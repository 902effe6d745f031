"""Turns a finished checkpoint that is the model itself into a bf16 folder: its own weights, unpacked, as those of a GGUF are.

What was lost when it was quantized stays lost: figures beside such a baseline say what the packing costs, not what the method did.
"""

import shutil
from pathlib import Path
from typing import Any

from quantmill.errors import SourceError
from quantmill.recipe.methods import METHODS
from quantmill.recipe.packing import Packing
from tasks.sandbox import Progress
from tasks.source import dequantize

_DROPPED = ("config.json", "quantize_config.json", "quantization_config.json", "README.md", "special_tokens_map.json")


def take_in(model: Any, source: Path, files: list[str], packing: Packing, out: Path, progress: Progress) -> None:
    """Fill the empty folder `out` with plain bf16 weights and the checkpoint's other files.

    Args:
        model: the checkpoint as a runtime opened it, its layers unpacked where they can be.
        source: the checkpoint's folder.
        files: which of its files.
        packing: how it is packed.
        out: an empty folder.
        progress: told the step.

    Raises:
        SourceError: its layers cannot be unpacked.
    """
    progress("unpack", 0, 1)
    if METHODS[packing.method].unpacks_whole:
        model = model.dequantize()
    try:
        dequantize.save_model(model, out)
    except RuntimeError as error:
        words = " ".join(str(error).split())[:200]
        raise SourceError(f"{packing.method} cannot be unpacked here ({words})") from error
    for name in files:
        if name not in _DROPPED and not name.endswith((".safetensors", ".safetensors.index.json")):
            shutil.copyfile(source / name, out / name)
    progress("unpack", 1, 1)
