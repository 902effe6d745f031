"""llama.cpp's pre-tokenizers in the form of tokenizer.json, to repair a tokenizer read from a GGUF."""

from dataclasses import dataclass
from typing import Any

_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_GPT2 = {**_BYTES, "use_regex": True}
_DIGITS_GPT2 = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, _GPT2]}


def _split(number: str) -> dict[str, Any]:
    pattern = (
        rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{number}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _BYTES]}


@dataclass(frozen=True)
class PreTokenizer:
    """llama.cpp's pre-tokenizer for a value of `tokenizer.ggml.pre`: in words and as in tokenizer.json."""

    words: str
    rule: dict[str, Any]
    ignore_merges: bool = False


# From llm_tokenizer_bpe in llama.cpp's src/llama-vocab.cpp; a test compares each name with llama.cpp.
PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"),
        PreTokenizer("digits split one by one, then GPT-2's split", _DIGITS_GPT2),
    ),
    **dict.fromkeys(("gpt-2", "mpt", "olmo", "jais"), PreTokenizer("GPT-2's split", _GPT2)),
    **dict.fromkeys(("qwen2", "stablelm2"), PreTokenizer("Qwen2's split", _split(r"\p{N}"))),
    **dict.fromkeys(("dbrx", "smaug-bpe"), PreTokenizer("Llama 3's split", _split(r"\p{N}{1,3}"))),
    "llama-bpe": PreTokenizer("Llama 3's split, whole words first", _split(r"\p{N}{1,3}"), ignore_merges=True),
}
