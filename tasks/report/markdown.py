"""Escapes foreign text for Markdown: names, causes of failure, licences.

Markdown then shows the text literally and formats nothing.
"""

import re
from collections.abc import Sequence

# An underscore inside a word needs no escape: `q4_k_m` is shown literally, but `__init__` would be bold.
_SIGNS = re.compile(r"[\\`*~\[\]|<>]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def plain(text: str) -> str:
    """Return text on one line, escaped so that Markdown shows it literally; no-break spaces stay."""
    return _SIGNS.sub(r"\\\g<0>", " ".join(re.split(r"[^\S\xa0]+", text.strip())))


def row(texts: Sequence[str]) -> str:
    """Return a row of a Markdown table, with the cells escaped."""
    return "| " + " | ".join(map(plain, texts)) + " |"
