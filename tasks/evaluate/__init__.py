"""Stage 5: measures an artifact's quality and speed."""

from tasks.evaluate.busy import is_quiet_now
from tasks.evaluate.evaluate import REVISION, SPEED_REVISION, find_report, measure_artifact, packages

__all__ = ["REVISION", "SPEED_REVISION", "find_report", "is_quiet_now", "measure_artifact", "packages"]
