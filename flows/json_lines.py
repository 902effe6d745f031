"""Formats log records as JSON, one per line, each with the flow run that wrote the record.

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
    """Formats a record as a JSON object: time, level, logger, message, and the `_FIELDS` that it has."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON.

        In the process of a flow run every line names the run, whatever thread or library logged the record.
        """
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
