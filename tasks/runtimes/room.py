"""Decides whether a model can be scored in fp32.

The weights in fp32 and the arrays of scoring must fit into the free memory.
"""

import sys
from pathlib import Path

import torch

from quantmill.records import planning
from tasks.model import architecture
from tasks.model.files import weight_files
from tasks.sandbox import here

_ROOM = 0.7  # the share of the free memory that scoring may take


def fits_in_fp32(folder: Path, packed_bits: int | None, device: str, context: int) -> bool:
    """Return whether a model can be scored in fp32, and write the decision to the job's log.

    Args:
        folder: the folder with the model's safetensors files and config.json.
        packed_bits: the bit width of packed weights that are unpacked to fp32; None: packed weights stay packed.
        device: the device that computes.
        context: the number of tokens in a window.
    """
    config = architecture.read_config(folder)
    needed = planning.fp32_bytes(weight_files(folder), packed_bits)
    needed += planning.scoring_bytes(
        context, int(config["vocab_size"]), int(config.get("hidden_size") or config["n_embd"])
    )
    free = here.free_bytes() if device == "cpu" else torch.cuda.mem_get_info(device)[0]
    fits = needed < _ROOM * free
    arithmetic = "in fp32" if fits else "in the arithmetic that the folder states"
    sys.stdout.write(f"scoring {arithmetic}: fp32 takes {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free\n")
    return fits
