"""Turns a recipe's model that is quantized already into a bf16 folder of its unpacked weights.

The loss of its quantization stays: figures relative to such a baseline show the cost of the packing, not that loss.
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
        model: the checkpoint as a runtime opened it, with the layers unpacked that the runtime can unpack.
        source: the checkpoint's folder.
        files: names of the files to take from the folder.
        packing: how the checkpoint is packed.
        out: an empty folder.
        progress: receives the step.

    Raises:
        SourceError: the checkpoint's layers cannot be unpacked.
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
