"""Log records as JSON, one to a line, each with the run that it belongs to.

    PREFECT_LOGGING_SETTINGS_PATH=$PWD/deployments/logging.yaml prefect worker start --pool cpu

The file is Prefect's own configuration with this formatter. Runs inherit it from their worker.
"""

import json
import logging
import os
from datetime import UTC, datetime

_FIELDS = (
    "flow_run_id", "flow_run_name", "flow_name", "task_run_id", "task_run_name", "worker_id",
    "variant", "stage", "step", "done", "total",
)  # fmt: skip


class JsonLines(logging.Formatter):
    """Formats a record as a JSON object: time, level, logger, message, and the names above where the record has them."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line. In a process that executes a run every line names it, whatever thread or library wrote it."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if run := os.environ.get("PREFECT__FLOW_RUN_ID"):
            line["flow_run_id"] = run
        line |= {name: value for name in _FIELDS if (value := getattr(record, name, None)) is not None}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)
