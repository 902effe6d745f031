"""MLflow's client, its errors as one line, and its database where that is a file."""

from tasks.tracking.client import connect, failing_in_a_line, is_empty, one_line, require_answer

__all__ = ["connect", "database", "failing_in_a_line", "is_empty", "one_line", "require_answer"]
