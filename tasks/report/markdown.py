"""Text in Markdown that others wrote: names, causes of failure, licences. It is shown as it is, and formats nothing."""

import re
from collections.abc import Sequence

# An underscore inside a word is one: `q4_k_m` stays as it is, `__init__` would be bold.
_SIGNS = re.compile(r"[\\`*~\[\]|<>]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def plain(text: str) -> str:
    """Return text, on one line, that Markdown shows as it is; a blank that does not break stays one."""
    return _SIGNS.sub(r"\\\g<0>", " ".join(re.split(r"[^\S\xa0]+", text.strip())))


def row(texts: Sequence[str]) -> str:
    """Return a row of a table."""
    return "| " + " | ".join(map(plain, texts)) + " |"
