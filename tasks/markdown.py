"""Text in Markdown that others wrote: names, causes of failure, licences. It is shown as it is, and formats nothing."""

import re
from collections.abc import Sequence


def plain(text: str) -> str:
    """Return text, on one line, that Markdown shows as it is."""
    return re.sub(r"([\\`*\[\]|<>])", r"\\\1", " ".join(text.split()))


def row(texts: Sequence[str]) -> str:
    """Return a row of a table."""
    return "| " + " | ".join(map(plain, texts)) + " |"
