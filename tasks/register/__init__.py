"""Stage 8: records runs and accepted variants in MLflow; an outbox keeps runs until MLflow has them."""

from tasks.register.models import show_revocations
from tasks.register.outbox import deliver, keep, run_of, waiting

__all__ = ["deliver", "keep", "run_of", "show_revocations", "waiting"]
