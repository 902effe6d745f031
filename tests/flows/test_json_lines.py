"""Logs as JSON lines: a process that runs a flow, as a worker starts it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

from tests.line import ROOT

_FLOW = """
import logging
from prefect import flow, get_run_logger, task
from tasks.sandbox import PROGRESS

@task(task_run_name="quantize it")
def quantize():
    get_run_logger().warning("%d of %d experts", 3, 8)

@flow(name="variant", flow_run_name="gptq-4bit")
def variant():
    PROGRESS.setLevel(logging.INFO)
    PROGRESS.info("layer 3", extra={"variant": "gptq-4bit", "stage": "artifact", "step": "layer", "done": 3, "total": 30})
    quantize()
    try:
        raise ValueError("two\\nlines")
    except ValueError:
        get_run_logger().exception("it broke")

variant()
"""


@pytest.mark.slow
def test_every_line_is_an_object_that_names_its_run(prefect_url: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")} | {
        "PREFECT_API_URL": prefect_url,
        "PREFECT_HOME": str(tmp_path),
        "PREFECT_LOGGING_SETTINGS_PATH": str(ROOT / "deployments" / "logging.yaml"),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run([sys.executable, "-c", _FLOW], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    by_message = {line["message"]: line for line in lines}
    run = by_message["it broke"]
    assert UUID(run["flow_run_id"])
    assert (run["level"], run["flow_name"], run["flow_run_name"]) == ("ERROR", "variant", "gptq-4bit")
    assert run["error"].endswith("ValueError: two\nlines")
    stage = by_message["3 of 8 experts"]
    assert (stage["flow_run_id"], stage["task_run_name"]) == (run["flow_run_id"], "quantize it")
    progress = by_message["layer 3"]
    assert (progress["variant"], progress["stage"], progress["done"]) == ("gptq-4bit", "artifact", 3)
