"""Stage 3, GGUF only: converts the snapshot to a BF16 GGUF file and compares both on a longer text."""

from tasks.convert.convert import convert_snapshot, key_of
from tasks.convert.long_text import LongText, find_long_text, score_long_text

__all__ = ["LongText", "convert_snapshot", "find_long_text", "key_of", "score_long_text"]
