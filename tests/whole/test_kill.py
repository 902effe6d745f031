"""Ctrl-C, then kill -9, during a run: no process is left, and a rerun completes without repeated work."""

import signal
import time
from pathlib import Path

import pytest

from tests.line import Line, processes_of

pytestmark = pytest.mark.slow


def test_stop_and_kill_in_mid_quantize_and_complete(tiny: Path, tmp_path: Path) -> None:
    recipe = {
        "model": {"source": str(tiny)},
        "calibration": {"samples": 2, "sequence_length": 64},
        "evaluation": {"samples": 2, "sequence_length": 129},
        "variants": [
            {"method": "bitsandbytes", "bits": 4},
            {"method": "gptq", "bits": 4, "group_size": 64},
            {"method": "bitsandbytes", "bits": 8},
        ],
        "gates": {"max_mean_kl": 0},
        "publish": {"model": "tiny"},
    }
    line = Line(tmp_path / "line", tmp_path / "home", recipe)
    for number, work in ((signal.SIGINT, "report baseline-bf16"), (signal.SIGTERM, "artifact bitsandbytes-nf4")):
        process = line.start()
        line.wait_for(work)
        time.sleep(2)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
        assert process.returncode not in (0, 3)
        assert "Traceback" not in output
        assert not processes_of(line.home), "Ctrl-C and SIGTERM end it all"

    process = line.start()
    line.wait_for("artifact gptq-4bit-g64")
    time.sleep(2)
    assert len(processes_of(line.home)) >= 3, "the run, its Prefect server and the job"
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 10
    while left := processes_of(line.home):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)

    code, summary, started = line.run()
    assert started == [
        "artifact bitsandbytes-int8",
        "artifact gptq-4bit-g64",
        "report bitsandbytes-int8",
        "report gptq-4bit-g64",
    ], "what was finished is not made again"
    assert code == 3, "no variant is as good as the baseline"
    assert {row["name"]: (row["status"], row["cached"]) for row in summary["variants"]} == {
        "bitsandbytes-nf4": ("rejected", True),
        "gptq-4bit-g64": ("rejected", False),
        "bitsandbytes-int8": ("rejected", False),
    }
    assert all("mean KL" in row["reasons"][0] for row in summary["variants"])
    assert not (line.home / "store" / "models").exists()
    assert not list((line.home / "scratch").iterdir())
