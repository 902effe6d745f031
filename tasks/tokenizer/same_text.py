"""Whether a GGUF file tokenizes and renders a chat as the folder that it comes from does; inside a job."""

import json
from pathlib import Path

from quantmill.errors import TokenizerMismatch
from tasks.tokenizer import check

RECUT = "recut.json"
"""Beside a conversion: how many ids of the probe lie in runs of one character that llama.cpp cuts in other places."""


def require(folder: Path, gguf: Path) -> int:
    """Return how many ids of the probe lie in runs of one character that the GGUF file cuts in other places.

    Raises:
        TokenizerMismatch: it tokenizes or renders a chat unlike the folder.
    """
    difference, recut = check.examine(folder, gguf)
    if difference:
        raise TokenizerMismatch(f"{gguf.name} tokenizes unlike its source: {difference}")
    if words := check.compare_chat_template(folder, gguf):
        raise TokenizerMismatch(f"{gguf.name} renders a chat unlike its source: {words}")
    return recut


def require_checked(folder: Path, conversion: Path, gguf: Path) -> int:
    """Return the same of a file made from a conversion, in which what llama.cpp makes its tokenizer of was checked once."""
    if check.read_tokenizer(conversion) != check.read_tokenizer(gguf):
        return require(folder, gguf)
    found = conversion.parent / RECUT  # conversions made before this was counted had none
    return int(json.loads(found.read_text(encoding="utf-8"))) if found.is_file() else 0
