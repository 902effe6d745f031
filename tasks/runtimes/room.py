"""Whether scoring can be done in fp32: the widened weights and what scoring holds beside them, against the memory that is free."""

import sys
from pathlib import Path

import torch

from quantmill.records import planning
from tasks.model import architecture
from tasks.sandbox import here

_ROOM = 0.7  # of the free memory that scoring may take


def fits_in_fp32(folder: Path, packed_bits: int | None, device: str, context: int) -> bool:
    """Return whether a model can be scored in fp32, and say so in the job's log.

    Args:
        folder: its safetensors files and config.json.
        packed_bits: how wide its packed weights are where they are unpacked to fp32; None: they stay packed.
        device: where it computes.
        context: tokens of a window.
    """
    config = architecture.read_config(folder)
    needed = planning.fp32_bytes(sorted(folder.glob("*.safetensors")), packed_bits)
    needed += planning.scoring_bytes(
        context, int(config["vocab_size"]), int(config.get("hidden_size") or config["n_embd"])
    )
    free = here.free_bytes() if device == "cpu" else torch.cuda.mem_get_info(device)[0]
    fits = needed < _ROOM * free
    arithmetic = "in fp32" if fits else "in the arithmetic that the folder states"
    sys.stdout.write(f"scoring {arithmetic}: fp32 takes {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free\n")
    return fits
