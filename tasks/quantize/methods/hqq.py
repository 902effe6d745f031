"""HQQ (Badri and Shaji 2023): half-quadratic optimisation of the zero points, from the weights alone.

The hqq package's `save_quantized` writes a pickle. The state of the layers holds only tensors, so this module writes it as
safetensors, and prints the loader that consumers need in the artifact's README.md.
"""

import json
from pathlib import Path
from typing import Any

from quantmill.recipe.methods.hqq import METHOD, Options
from quantmill.records.artifact import QuantizedTensor
from tasks.model import tensors
from tasks.quantize.work import Work

_LOADER = Path(__file__).resolve().parents[2] / "runtimes" / "hqq_loader.py"


def quantize(work: Work[Options]) -> list[QuantizedTensor]:
    """Quantize the linear layers one after the other, all but the head, and write safetensors."""
    import torch
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear
    from transformers import AutoModelForCausalLM

    told = work.options
    model = AutoModelForCausalLM.from_pretrained(work.source, dtype=torch.bfloat16, local_files_only=True)
    chosen = tensors.choose_bits(work.layers, work.source)
    names = tensors.linear_names(work.source)
    linear = {name: _plain(layer) for name, layer in model.named_modules() if name in names and _is_linear(layer)}
    group_size = None if told.group_size == -1 else told.group_size
    for index, (name, layer) in enumerate(linear.items()):
        work.progress("layer", index, len(linear))
        if (bits := chosen.get(name, work.bits)) != 16:
            config = BaseQuantizeConfig(nbits=bits, group_size=group_size, axis=told.axis)
            model.set_submodule(name, HQQLinear(layer, config, compute_dtype=torch.float16, device=work.device))
    work.progress("layer", len(linear), len(linear))
    _save(model, work.source, work.out, {"nbits": work.bits, "group_size": group_size, "axis": told.axis})
    return tensors.account(work.source, work.out, METHOD.name, left=tensors.left(chosen))


def _is_linear(layer: Any) -> bool:
    return type(layer).__name__ in ("Linear", "Conv1D")


def _plain(layer: Any) -> Any:
    """Return a linear layer for GPT-2's `Conv1D`, whose matrix is stored transposed."""
    import torch

    if type(layer).__name__ == "Linear":
        return layer
    inputs, outputs = layer.weight.shape
    plain = torch.nn.Linear(inputs, outputs, bias=layer.bias is not None, dtype=layer.weight.dtype)
    plain.weight.data = layer.weight.data.T.contiguous()
    if layer.bias is not None:
        plain.bias.data = layer.bias.data
    return plain


def _save(model: Any, source: Path, out: Path, settings: dict[str, Any]) -> None:
    """Write the weights, a config.json that names the method, and a README.md with the loader.

    The method's name keeps other programs from loading the folder as plain weights.
    """
    from safetensors.torch import save_file

    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    state = {name: part.contiguous() for name, part in model.state_dict().items() if part is not None}
    if config.get("tie_word_embeddings"):
        for name in model._tied_weights_keys or ():
            state.pop(name, None)
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    # Without `skip_modules`, transformers fails on the folder; with it, transformers would use random weights and only warn.
    quantization = {"quant_method": METHOD.name, "quant_config": {"weight_quant_params": settings}}
    text = json.dumps(config | {"quantization_config": quantization}, indent=2, sort_keys=True, ensure_ascii=False)
    (out / "config.json").write_text(text + "\n", encoding="utf-8")
    loader = _LOADER.read_text(encoding="utf-8")
    words = (
        "# How to load this model\n\nIt was quantized with HQQ. These lines load it, and call nothing of Quantmill:\n\n"
    )
    (out / "README.md").write_text(f'{words}```python\n{loader}\n\nmodel = load_hqq(".")\n```\n', encoding="utf-8")
