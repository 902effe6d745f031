"""Load a language model that was quantized with HQQ and stored as safetensors.

Needs `pip install hqq transformers accelerate safetensors`. transformers itself cannot load such folders (its HqqConfig
raises NotImplementedError), so these lines do: they build the model empty and fill it from the files.
"""

import pathlib

import accelerate
import torch
import transformers
from hqq.core.quantize import HQQLinear
from safetensors.torch import load_file


def load_hqq(folder: str, device: str = "cpu", dtype: torch.dtype = torch.bfloat16) -> transformers.PreTrainedModel:
    """Return the model in `folder`, its layers computing in `dtype`."""
    config = transformers.AutoConfig.from_pretrained(folder)
    del config.quantization_config
    with accelerate.init_empty_weights(include_buffers=False):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    state = {}
    for path in sorted(pathlib.Path(folder).glob("*.safetensors")):
        state.update(load_file(path))
    for name in [key.removesuffix(".W_q") for key in state if key.endswith(".W_q")]:
        parts = {key: state.pop(key) for key in list(state) if key.startswith(f"{name}.")}
        layer = HQQLinear(None, None, compute_dtype=dtype, device=device, initialize=False)
        layer.load_state_dict({key.removeprefix(f"{name}."): part for key, part in parts.items()})
        for key, part in layer.meta.items():
            if isinstance(part, torch.Tensor):
                layer.meta[key] = part.to(dtype)
        layer.meta["compute_dtype"] = layer.compute_dtype = dtype
        model.set_submodule(name, layer)
    state = {key: part.to(device, dtype) for key, part in state.items()}
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    if left := [name for name, part in model.named_parameters() if part.is_meta]:
        raise ValueError(f"the folder lacks {left[0]} ({len(left)} in all)")
    model.generation_config = transformers.GenerationConfig.from_model_config(config)
    return model.to(device).eval()
