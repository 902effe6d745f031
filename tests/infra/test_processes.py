"""Parts of a service as processes: started in stages, watched, ended in the opposite order."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.stack.processes import Part, Processes
from quantmill.errors import ServerError
from tests.line import ROOT

# Writes what happens to it into one file, and ends when it is told to.
_BEGIN = "echo $$ > {diary}.pid; echo start {name} >> {diary}"
_LIFE = "trap 'echo end {name} >> {diary}; exit 0' TERM; " + _BEGIN + "; while :; do sleep 0.05; done"


def part(
    name: str, diary: Path, life: str = _LIFE, is_healthy: Callable[[], bool] | None = None, **more: float
) -> Part:
    written = is_healthy or (lambda: diary.exists() and f"start {name}" in diary.read_text())
    return Part(name, ("sh", "-c", life.format(name=name, diary=diary)), written, **more)  # type: ignore[arg-type]


def pid_of(diary: Path) -> int:
    """Return the process of the part that started last."""
    return int(Path(f"{diary}.pid").read_text())


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_stages_start_in_order_and_end_in_the_opposite_one(tmp_path: Path) -> None:
    diary, processes = tmp_path / "diary", Processes(tmp_path, print)
    processes.start(part("database", diary))
    processes.start(part("server", diary))
    processes.start(part("worker", diary))
    processes.stop()
    assert diary.read_text().splitlines() == [
        *("start database", "start server", "start worker"),
        *("end worker", "end server", "end database"),
    ]


def test_a_part_that_dies_before_it_is_healthy_shows_the_end_of_its_log(tmp_path: Path) -> None:
    processes = Processes(tmp_path, print)
    with pytest.raises(ServerError, match=r"(?s)^broken ended with status 3; the end of .*broken\.log:\n    no disk$"):
        processes.start(part("broken", tmp_path / "diary", "echo no disk; exit 3"))
    processes.stop()


def test_a_part_that_dies_at_once_is_not_started_again(tmp_path: Path) -> None:
    diary, processes = tmp_path / "diary", Processes(tmp_path, print)
    processes.start(part("worker", diary, "echo start {name} >> {diary}; kill -9 $$"))
    wait_for(lambda: died(processes))
    assert diary.read_text().count("start worker") == 1
    processes.stop()


def died(processes: Processes) -> bool:
    try:
        processes.look()
    except ServerError as error:
        assert str(error).startswith("worker was killed by SIGKILL; the end of ")
        return True
    return False


def test_a_part_that_dies_later_is_started_again_and_that_is_told(tmp_path: Path) -> None:
    diary, told = tmp_path / "diary", list[str]()
    processes = Processes(tmp_path, told.append, settled_s=0.0)
    processes.start(part("worker", diary))
    os.kill(pid_of(diary), signal.SIGKILL)
    wait_for(lambda: processes.look() or len(told) == 2)
    wait_for(lambda: diary.read_text().count("start worker") == 2)
    assert told[0].startswith("worker was killed by SIGKILL")
    assert told[1] == "worker is healthy again"
    processes.stop()
    assert diary.read_text().endswith("end worker\n")


def test_what_does_not_end_in_its_time_is_killed(tmp_path: Path) -> None:
    diary, told = tmp_path / "diary", list[str]()
    processes = Processes(tmp_path, told.append)
    stubborn = "trap '' TERM; " + _BEGIN + "; while :; do sleep 0.05; done"
    processes.start(part("worker", diary, stubborn, stop_s=0.3))
    processes.stop()
    assert told == ["worker did not end in time and was killed"]
    with pytest.raises(ProcessLookupError):
        os.kill(pid_of(diary), 0)


def test_parts_end_with_whoever_started_them(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    code = (
        "import os, sys; from pathlib import Path; from infra.stack.processes import Part, Processes\n"
        f"diary = Path({str(diary)!r})\n"
        f"life = {_LIFE.format(name='worker', diary=diary)!r}\n"
        "Processes(diary.parent, print).start(Part('worker', ('sh', '-c', life), diary.exists))\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT)
    wait_for(lambda: "end worker" in diary.read_text())
