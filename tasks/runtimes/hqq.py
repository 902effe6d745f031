"""hqq: loads HQQ layers from safetensors, with the loader that the artifact's README.md prints."""

from pathlib import Path

import torch

from tasks.runtimes.causal import CausalModel
from tasks.runtimes.hqq_loader import load_hqq
from tasks.runtimes.protocol import Machine
from tasks.runtimes.room import fits_in_fp32

PACKAGE = "hqq"


def load(folder: Path, machine: Machine, context: int, scoring: bool) -> CausalModel:
    """Load an artifact folder as a consumer does, in bf16 (fp16 on CUDA).

    `scoring` computes in fp32 if memory allows.
    """
    torch.set_num_threads(machine.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    wide = scoring and fits_in_fp32(folder, None, machine.device, context)  # HQQ layers stay packed
    dtype = torch.float32 if wide else torch.bfloat16 if machine.device == "cpu" else torch.float16
    model = load_hqq(str(folder), machine.device, dtype)
    return CausalModel(model, folder, machine.device, str(dtype).removeprefix("torch."), "hqq HQQLinear PYTORCH")
