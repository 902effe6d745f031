"""The short form of `benchmarks/chaos_pull.py`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_fault_24_killed_again_and_again_current_is_always_a_verified_tree() -> None:
    command = [sys.executable, "-m", "benchmarks.chaos_pull", "--kills", "60", "--seed", "24"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    assert said["kills"] >= 60
    assert (said["current not verified"], said["finished files fetched again"]) == (0, 0), said["faults"]
    assert all(count >= 3 for count in said["of these"].values()), "kills fell everywhere"
    assert len(said["of these"]) == 3
