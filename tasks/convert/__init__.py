"""Stage 3, GGUF only: the snapshot in one BF16 GGUF file, compared with its source on a longer text."""

from tasks.convert.convert import PACKAGES, REVISION, convert_snapshot
from tasks.convert.long_text import LongText, find_long_text, score_long_text

__all__ = ["PACKAGES", "REVISION", "LongText", "convert_snapshot", "find_long_text", "score_long_text"]
