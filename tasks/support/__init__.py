"""Which models each engine takes, and what llama.cpp computes otherwise than a config says."""

from tasks.support.gguf import missing_kinds
from tasks.support.gguf_arithmetic import likely_cause, longer_text, right_up_to
from tasks.support.support import require

__all__ = ["likely_cause", "longer_text", "missing_kinds", "require", "right_up_to"]
