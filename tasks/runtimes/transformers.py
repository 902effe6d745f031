"""transformers: loads a Hugging Face folder with the quantized layers that its config names.

`scoring` loads the same folder and widens the arithmetic to fp32 where possible. bf16 arithmetic alone costs a mean KL of
1.1e-3 on a model of 135 million weights, a quarter of the cost of 8-bit formats, and would hide their damage.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from quantmill.recipe.methods import METHODS
from tasks.runtimes.causal import CausalModel
from tasks.runtimes.protocol import Machine
from tasks.runtimes.room import fits_in_fp32
from tasks.runtimes.widen import widen

PACKAGE = "transformers"
_BACKENDS = {row.quant_method: row.plain_backend for row in METHODS.values() if row.plain_backend}
"""`quant_method` -> the backend whose layers `widen` can unpack; other backends repack the weights while loading."""


def load(folder: Path, machine: Machine, context: int, scoring: bool) -> CausalModel:
    """Load an artifact folder as a consumer does, offline and without running code from the folder.

    `scoring` widens the arithmetic to fp32 if memory allows.

    Raises:
        ValueError: weights are missing; transformers would fill in random weights.
    """
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)  # it warns at every multiplication
    torch.set_num_threads(machine.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    quantization: dict[str, Any] = getattr(config, "quantization_config", None) or {}
    wide = scoring and fits_in_fp32(folder, quantization.get("bits"), machine.device, context)
    options: dict[str, Any] = {"dtype": torch.float32 if wide else "auto"}
    options |= machine.placement or {"device_map": machine.device}
    name = str(quantization.get("quant_method"))
    if wide and name in _BACKENDS:
        config_class = AUTO_QUANTIZATION_CONFIG_MAPPING[name]
        options["quantization_config"] = config_class(bits=quantization["bits"], backend=_BACKENDS[name])
    model, loaded = AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, output_loading_info=True, **options
    )
    if missing := sorted(map(str, [*loaded["missing_keys"], *loaded["mismatched_keys"]])):
        raise ValueError(
            f"the folder lacks {missing[0]} ({len(missing)} in all): transformers would use random weights"
        )
    model.eval()
    if wide:
        widen(model)
    dtype = "float32" if wide else str(model.dtype).removeprefix("torch.")
    return CausalModel(model, folder, machine.device, dtype, kernel_of(model))


def kernel_of(model: torch.nn.Module) -> str:
    """Return the classes of the layers with quantized weights; if there are none, torch and its kernels."""
    names = {
        f"{type(module).__module__.partition('.')[0]} {type(module).__name__}"
        for module in model.modules()
        if hasattr(module, "qweight") or type(module).__name__ in ("Linear4bit", "Linear8bitLt")
    }
    on_gpu = any(tensor.is_cuda for tensor in model.parameters())
    plain = "cuda" if on_gpu else torch.backends.cpu.get_cpu_capability()
    return ", ".join(sorted(names)) or f"torch {plain}"
