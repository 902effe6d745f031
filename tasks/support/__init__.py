"""Checks which models an engine supports, and where llama.cpp ignores a config. Imports no engine."""

from tasks.support.gguf import missing_kinds
from tasks.support.gguf_arithmetic import likely_cause, longer_text, right_up_to
from tasks.support.gguf_arithmetic import obstacle as gguf_obstacle
from tasks.support.gptqmodel import obstacle as gptqmodel_obstacle

__all__ = ["gguf_obstacle", "gptqmodel_obstacle", "likely_cause", "longer_text", "missing_kinds", "right_up_to"]
