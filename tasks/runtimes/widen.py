"""Widens the arithmetic of a loaded transformers model to fp32.

The rounding errors of bf16 would hide the damage of an 8-bit format.
"""

from typing import Any

import torch

_HALF = (torch.bfloat16, torch.float16)


def widen(model: torch.nn.Module) -> None:
    """Make all modules compute in fp32 that can do so.

    transformers ignores `dtype` for a model that is already quantized, so this function casts its half-precision weights.
    bitsandbytes' 4-bit layers use a bf16 kernel on CPUs that have bf16 instructions, so this function turns that kernel off.
    GPTQModel's and AutoRound's CPU kernels compute in bf16 or fp16, so this function unpacks their layers to fp32 matrices.
    LLM.int8() casts its inputs to fp16 by definition; this stays.
    """
    for name, module in list(model.named_modules()):
        if hasattr(module, "qweight"):
            model.set_submodule(name, unpack(module))
        elif type(module).__name__ == "Linear4bit":
            wanted = {"support_avx512bf16_for_cpu": False, "compute_dtype": torch.float32, "compute_type_is_set": True}
            for attribute, value in wanted.items():
                if not hasattr(module, attribute):
                    raise AttributeError(f"{name}: bitsandbytes' Linear4bit has no {attribute} any more; see `widen`")
                setattr(module, attribute, value)
    for parameter in model.parameters():
        if parameter.dtype in _HALF:
            parameter.data = parameter.data.float()


def unpack(module: Any) -> torch.nn.Linear:
    """Return a GPTQ, AWQ or AutoRound layer as a plain linear layer with fp32 weights (out, in).

    The engine's own formula computes the weights.
    """
    module.scales = module.scales.float()
    bias, module.bias = module.bias, None
    with torch.inference_mode():
        weight = _weight(module).float().contiguous()
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = torch.nn.Parameter(weight.clone(), requires_grad=False)
    if bias is not None:
        layer.bias = torch.nn.Parameter(bias.float(), requires_grad=False)
    return layer


def _weight(module: Any) -> torch.Tensor:
    if hasattr(module, "dequantize_weight"):
        return torch.as_tensor(module.dequantize_weight()).T
    if "Awq" in type(module).__name__:
        from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm

        return torch.as_tensor(
            dequantize_gemm(module.qweight, module.qzeros, module.scales, module.bits, module.group_size)
        ).T
    # AutoRound's layer computes in the type of its input, so its output for the unit vectors is exactly its matrix.
    units = torch.eye(module.qweight.shape[0] * 32 // module.bits, device=module.qweight.device)
    return torch.as_tensor(module(units)).T
