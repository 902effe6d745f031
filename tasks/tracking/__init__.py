"""Connects to MLflow, turns its errors into one line, and maintains its SQLite database."""

from tasks.tracking.client import connect, failing_in_a_line, is_empty, one_line, require_answer

__all__ = ["connect", "database", "failing_in_a_line", "is_empty", "one_line", "require_answer"]
