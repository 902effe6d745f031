"""gptqmodel: loads GPTQ folders whose layers have several bit widths; transformers supports only one."""

import logging
from pathlib import Path

import torch

from tasks.engines import gptqmodel as gptqmodel_engine
from tasks.runtimes.causal import CausalModel
from tasks.runtimes.protocol import Machine
from tasks.runtimes.room import fits_in_fp32
from tasks.runtimes.transformers import kernel_of
from tasks.runtimes.widen import widen

PACKAGE = "gptqmodel"


def load(folder: Path, machine: Machine, context: int, scoring: bool) -> CausalModel:
    """Load an artifact folder as a consumer does; `scoring` unpacks the layers to fp32 if memory allows."""
    gptqmodel_engine.prepare()
    from gptqmodel import BACKEND, GPTQModel

    logging.getLogger("gptqmodel").setLevel(logging.WARNING)
    torch.set_num_threads(machine.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    wide = scoring and fits_in_fp32(folder, 2, machine.device, context)
    backend = BACKEND.TORCH if wide else BACKEND.AUTO
    model = GPTQModel.load(str(folder), device=machine.device, backend=backend).model.eval()
    if wide:
        widen(model)
    dtype = "float32" if wide else str(model.dtype).removeprefix("torch.")
    return CausalModel(model, folder, machine.device, dtype, kernel_of(model))
