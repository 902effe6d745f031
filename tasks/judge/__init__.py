"""Stage 6: the verdicts, and the run's summary."""

from tasks.judge.gate import decide
from tasks.judge.summary import summarize

__all__ = ["decide", "summarize"]
