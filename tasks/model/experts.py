"""Counts calibration tokens of each expert; an expert with few tokens is quantized nearly blind."""

from functools import cache
from pathlib import Path

ENOUGH = 32  # fewer tokens than a group has weights say little about which weights matter


@cache  # once a process: engines take transformers' experts apart, so that a second count would find none
def starved(source: Path, calibration: Path) -> dict[str, int]:
    """Return `layer.expert` -> tokens for the experts that see fewer than `ENOUGH` calibration tokens."""
    return {name: tokens for name, tokens in count_tokens(source, calibration).items() if tokens < ENOUGH}


def count_tokens(source: Path, calibration: Path) -> dict[str, int]:
    """Return `layer.expert` -> number of calibration tokens that the layer's router sends to the expert.

    The model computes in bf16.
    """
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16, local_files_only=True).eval()
    chosen = int(model.config.num_experts_per_tok)
    seen: list[torch.Tensor] = []
    with torch.inference_mode():
        for window in load_file(calibration)["input_ids"].long():
            routed = model(window[None], use_cache=False, output_router_logits=True, logits_to_keep=1).router_logits
            seen = seen or [torch.zeros(logits.shape[-1], dtype=torch.long) for logits in routed]
            for layer, logits in zip(seen, routed, strict=True):
                picked = logits.reshape(-1, layer.numel()).topk(chosen, dim=-1).indices
                layer += torch.bincount(picked.flatten(), minlength=layer.numel())
    return {f"{layer}.{expert}": int(n) for layer, row in enumerate(seen) for expert, n in enumerate(row)}
