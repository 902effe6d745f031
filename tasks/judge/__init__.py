"""Stage 6: decides on the variants and summarizes the run."""

from tasks.judge.gate import decide
from tasks.judge.summary import summarize

__all__ = ["decide", "summarize"]
