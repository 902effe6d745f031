"""A stop is a latch: it works in every gap between jobs, and the same command goes on later."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests import small_line
from tests.line import started, wait_for_start

ROOT = Path(__file__).resolve().parents[3]


def end_of(pid: int) -> None:
    """Wait until a process is gone."""
    while Path(f"/proc/{pid}/exe").exists():
        time.sleep(0.0005)


@pytest.mark.parametrize(
    ("number", "job", "next_job"),
    [
        (signal.SIGTERM, "artifact baseline-bf16", "report baseline-bf16"),
        (signal.SIGINT, "snapshot folder", "artifact baseline-bf16"),
    ],
)
def test_a_stop_between_two_jobs_ends_the_run(
    tmp_path: Path, prefect_url: str, number: signal.Signals, job: str, next_job: str
) -> None:
    starts = tmp_path / "starts"
    starts.mkdir()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(small_line.recipe(tmp_path / "source")))
    settings = {
        "QUANTMILL_HOME": str(tmp_path / "home"),
        "QUANTMILL_PYTHON": str(small_line.interpreter(tmp_path, starts)),
        "PREFECT_API_URL": prefect_url,
        "TMPDIR": str(tmp_path),  # its lock is of no other run: nothing is measured here
    }
    command = [sys.executable, "-m", "quantmill.cli", "compress", str(recipe)]
    process = subprocess.Popen(
        command,
        env=os.environ | settings,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    end_of(wait_for_start(starts, job, 45))
    process.send_signal(number)
    try:
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert next_job not in started(starts), "it would have run for two minutes"
    assert process.returncode == 130, output
    assert output.splitlines()[-1] == "stopped: nothing more starts; the same command goes on with what is missing"
    assert "Traceback" not in output


_LATCH = """
import sys, threading, time
from pathlib import Path
from quantmill.errors import OutOfMemory, Stopped
from quantmill.settings import Settings
from tasks.sandbox import Sandbox, stopping
from tasks.sandbox.surroundings import machine_held
from tests.toy_job import Alone, Arguments
home, ended = Path(sys.argv[1]), []
sandbox = Sandbox(Settings(home=home, python=Path(sys.argv[2])))

def ask(kind):
    try:
        told = Alone() if kind == "report" else Arguments(kind=kind)
        with sandbox.run(told, "thing"):
            ended.append("ran")
    except (Stopped, OutOfMemory) as error:
        ended.append(f"{type(error).__name__}: {error}".partition(";")[0])

def meanwhile(kind, begun):
    thread = threading.Thread(target=ask, args=(kind,))
    thread.start()
    while not list(home.glob(begun)):
        time.sleep(0.01)
    return thread

ask("artifact")  # before a stop all that is asked for runs
running = meanwhile("snapshot", "started-snapshot")
with machine_held(alone=False):
    waiting = meanwhile("report", "scratch/*/work")
    time.sleep(0.2)
    stopping.stop_all()
    running.join(20)
    waiting.join(20)
for kind in ("snapshot", "conversion", "artifact", "report"):  # each next job; a retry is one more `artifact`
    ask(kind)
print("\\n".join(ended))
"""


def test_after_a_stop_no_job_starts_in_any_gap(tmp_path: Path) -> None:
    """A running job is killed, a job that waits for the machine stops waiting, and a later job is refused."""
    starts, home = tmp_path / "starts", tmp_path / "home"
    starts.mkdir()
    body = f"(Path({str(home)!r}) / ('started-' + kind)).touch()\nif kind == 'snapshot':\n    time.sleep(60)\nleave()"
    python = small_line.interpreter(tmp_path, starts, body)
    done = subprocess.run(
        [sys.executable, "-c", _LATCH, str(home), str(python)],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    refused = [
        f"Stopped: thing: {kind}: not started, as the run was stopped"
        for kind in ("snapshot", "conversion", "artifact", "report")
    ]
    assert done.stdout.splitlines()[0] == "ran"
    assert sorted(done.stdout.splitlines()[1:3]) == ["Stopped: snapshot: ended, as the run was stopped", refused[-1]]
    assert done.stdout.splitlines()[3:] == refused
    assert started(starts) == ["artifact thing", "snapshot thing"]
