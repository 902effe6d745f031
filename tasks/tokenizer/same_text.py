"""Inside a job: checks that a GGUF file tokenizes and renders chats as its source folder does."""

import json
from pathlib import Path

from quantmill.errors import TokenizerMismatch
from tasks.tokenizer import check

RECUT = "recut.json"
"""The file beside a conversion with the number of ids that `require` returned for it."""


def require(folder: Path, gguf: Path) -> int:
    """Return the number of the probe's ids that differ harmlessly (see `token_runs.py`).

    Raises:
        TokenizerMismatch: the GGUF file tokenizes or renders a chat unlike the folder.
    """
    difference, recut = check.examine(folder, gguf)
    if difference:
        raise TokenizerMismatch(f"{gguf.name} tokenizes unlike its source: {difference}")
    if words := check.compare_chat_template(folder, gguf):
        raise TokenizerMismatch(f"{gguf.name} renders a chat unlike its source: {words}")
    return recut


def require_checked(folder: Path, conversion: Path, gguf: Path) -> int:
    """Return the result of `require` for a file made from a conversion.

    If the file has the conversion's tokenizer metadata, the result of the conversion's own check is returned.
    """
    if check.read_tokenizer(conversion) != check.read_tokenizer(gguf):
        return require(folder, gguf)
    found = conversion.parent / RECUT  # older conversions lack this file: their ids had to agree
    return int(json.loads(found.read_text(encoding="utf-8"))) if found.is_file() else 0
