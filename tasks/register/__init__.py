"""Stage 8: runs and accepted variants are recorded in MLflow; what waits for MLflow is kept."""

from tasks.register.models import show_revocations
from tasks.register.outbox import deliver, keep, run_of, waiting

__all__ = ["deliver", "keep", "run_of", "show_revocations", "waiting"]
