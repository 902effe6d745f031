"""Jobs as processes: how each death is told apart, and that none survives its parent."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from quantmill.errors import EngineError, EngineMismatch, Killed, NotCached, OutOfMemory, TimedOut
from quantmill.settings import Settings
from tasks import installed as engines
from tasks.sandbox.deaths import memory_events, memory_kills, raise_death
from tasks.sandbox.sandbox import ClosedSandbox, Sandbox
from tasks.sandbox.surroundings import scratch
from tests.processes import gone, memory_group
from tests.toy_job import Arguments

ROOT = Path(__file__).resolve().parents[3]


_HANGING_JOB = """
import os, sys
if "tasks.sandbox.child" in sys.orig_argv:
    import subprocess, time
    child = subprocess.Popen(["sleep", "300"])
    open({pids!r}, "w").write(f"{{os.getpid()}} {{child.pid}}")
    import tasks.sandbox.child
    from tests import toy_job
    toy_job.run = lambda arguments, out, progress: time.sleep(300)
    sys.exit(tasks.sandbox.child.main())
"""


def interpreter(folder: Path, body: str) -> Path:
    """Return an interpreter that runs `body` in place of `tasks.sandbox.child` for each job."""
    code = folder / "body.py"
    code.write_text("import json, os, signal, sys, threading, time\njob = json.load(open(sys.argv[1]))\n" + body)
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {code} "$3"\n')
    path.chmod(0o755)
    return path


def run(tmp_path: Path, body: str, **settings: object) -> dict[str, object]:
    made = Settings(home=tmp_path / "home", python=interpreter(tmp_path, body), **settings)  # type: ignore[arg-type]
    with Sandbox(made).run(Arguments(), "thing") as result:
        return result.value


def test_a_result_comes_back_and_scratch_goes(tmp_path: Path) -> None:
    body = (
        "open(job['folder'] + '/out/w', 'w').write('1'); time.sleep(0.5)\n"
        "json.dump({'value': {'a': 1}, 'peak_memory_bytes': 0}, open(job['folder'] + '/result.json', 'w'))"
    )
    settings = Settings(home=tmp_path / "home", python=interpreter(tmp_path, body))
    with Sandbox(settings).run(Arguments(), "thing") as result:
        assert result.value == {"a": 1}
        assert (result.out / "w").read_text() == "1"
        assert result.peak_memory_bytes > 1e6
    assert not list((tmp_path / "home" / "scratch").iterdir())


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", Killed, "artifact was killed by SIGKILL; log: "),
        ("os.kill(os.getpid(), signal.SIGSEGV)", Killed, "SIGSEGV"),
        ("print('line one'); print('the engine says no'); sys.exit(7)", EngineError, "code 7: .*the engine says no"),
        ("sys.exit(0)", EngineError, "code 0"),
    ],
)
def test_deaths_are_told_apart(tmp_path: Path, body: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as raised:
        run(tmp_path, body)
    assert "\n" not in str(raised.value)


def test_a_timeout_kills_the_whole_group(tmp_path: Path) -> None:
    pid = str(tmp_path / "pid")
    body = f"import subprocess\np = subprocess.Popen(['sleep', '300'])\nopen({pid!r}, 'w').write(str(p.pid))\ntime.sleep(300)"
    with pytest.raises(TimedOut, match="longer than 2 s"):
        run(tmp_path, body, job_timeout_s=2)
    assert gone(int((tmp_path / "pid").read_text()))


def test_a_kill_by_the_kernel_is_out_of_memory(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory, match=r"holding 8\.0 GB"):
        raise_death("artifact", tmp_path / "result.json", -signal.SIGKILL, 8 * 10**9, True, tmp_path / "log")


_GREEDY = "held = []\nwhile True: held.append(bytearray(10**7))"
_STRUCK = "os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize(("body", "error"), [(_GREEDY, OutOfMemory), (_STRUCK, Killed)])
def test_the_kernel_s_kill_for_memory_is_told_from_another(tmp_path: Path, body: str, error: type[Exception]) -> None:
    """Two jobs that end by the same signal, in a group of 200 MB: one took more than there is."""
    with memory_group(200 * 10**6) as group:
        path = interpreter(tmp_path, "time.sleep(0.3)\n" + body)
        path.write_text(path.read_text().replace("exec", f"echo $$ > {group}\nexec"))
        with (
            pytest.raises(error, match="was killed"),
            Sandbox(Settings(home=tmp_path / "home", python=path)).run(Arguments(), "thing"),
        ):
            pass


@pytest.mark.parametrize(
    ("line", "file", "text"),
    [
        # docs.kernel.org/admin-guide/cgroup-v2.html, memory.events; in a container the path may be one of the host
        ("0::/a/b", "a/b/memory.events", "low 0\nhigh 0\nmax 71\noom 4\noom_kill 3\noom_group_kill 0\n"),
        ("0::/docker/0123", "memory.events", "low 0\nhigh 0\nmax 71\noom 4\noom_kill 3\noom_group_kill 0\n"),
        ("4:memory:/a/b", "memory/a/b/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
    ],
)
def test_both_versions_of_control_groups_are_read(tmp_path: Path, line: str, file: str, text: str) -> None:
    (tmp_path / "proc" / "7").mkdir(parents=True)
    (tmp_path / "proc" / "7" / "cgroup").write_text(f"9:name=systemd:/\n1:cpu:/\n{line}\n")
    (tmp_path / "cgroup" / file).parent.mkdir(parents=True)
    (tmp_path / "cgroup" / file).write_text(text)
    events = memory_events(7, tmp_path / "proc", tmp_path / "cgroup")
    assert events == tmp_path / "cgroup" / file
    assert memory_kills(events) == 3
    assert memory_events(8, tmp_path / "proc", tmp_path / "cgroup") is None


def test_what_a_job_reports_keeps_its_type(tmp_path: Path) -> None:
    body = (
        "json.dump({'error': 'OutOfMemory', 'message': 'torch said so', 'peak_memory_bytes': 9},"
        "open(job['folder'] + '/result.json', 'w')); sys.exit(1)"
    )
    with pytest.raises(OutOfMemory, match="torch said so"):
        run(tmp_path, body)


def test_a_real_job_tells_a_mismatch_of_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "pins", lambda environment: {"numpy": "0.0.1"})
    with (
        pytest.raises(EngineMismatch, match=r"numpy: the lock says 0\.0\.1, installed is"),
        Sandbox(Settings(home=tmp_path)).run(Arguments(), "thing", ("numpy",)),
    ):
        pass


_SEES = """
import sys
from tasks import installed
installed.hide_unasked({sys.argv[1]: ""})
from transformers.utils import is_hqq_available, is_torchao_available
print(is_hqq_available(), is_torchao_available())
"""


@pytest.mark.parametrize(
    ("package", "seen"), [("torch", "False False"), ("hqq", "True False"), ("gptqmodel", "False True")]
)
def test_a_job_imports_no_engine_that_it_does_not_name(package: str, seen: str) -> None:
    """By default transformers imports installed engines: hqq and torchao, with half of torch's compiler."""
    command = [sys.executable, "-c", _SEES, package]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip() == seen


def test_a_process_that_a_job_left_behind_keeps_nobody_waiting(tmp_path: Path) -> None:
    """It has left the job's group, and holds the pipe that takes progress lines."""
    body = (
        "import subprocess\n"
        "left = subprocess.Popen(['sleep', '30'], pass_fds=(job['progress_fd'],), start_new_session=True)\n"
        "json.dump({'value': {'left': left.pid}, 'peak_memory_bytes': 0}, open(job['folder'] + '/result.json', 'w'))"
    )
    began = time.monotonic()
    left = int(str(run(tmp_path, body)["left"]))
    try:
        assert time.monotonic() - began < 20
        assert not gone(left, 0)
    finally:
        os.kill(left, signal.SIGKILL)


def test_progress_reaches_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    body = (
        "os.write(job['progress_fd'], b'noise\\n' + json.dumps({'step': 'layer', 'done': 12, 'total': 30}).encode() + b'\\n')\n"
        "json.dump({'value': {}, 'peak_memory_bytes': 0}, open(job['folder'] + '/result.json', 'w'))"
    )
    with caplog.at_level(logging.INFO, "quantmill.progress"):
        run(tmp_path, body)
    (record,) = caplog.records
    assert record.getMessage() == "thing: layer 12 of 30"
    assert (record.__dict__["variant"], record.__dict__["done"], record.__dict__["total"]) == ("thing", 12, 30)


def test_secrets_stay_out_of_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "HF_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "MLFLOW_TRACKING_PASSWORD",
        "PREFECT_API_AUTH_STRING",
        "MY_PASSWORD",
    ):
        monkeypatch.setenv(name, "canary-4711")
    body = "json.dump({'value': dict(os.environ), 'peak_memory_bytes': 0}, open(job['folder'] + '/result.json', 'w'))"
    assert "canary-4711" not in json.dumps(run(tmp_path, body))


def test_a_job_dies_with_its_parent(tmp_path: Path) -> None:
    """The parent is killed with SIGKILL; its real job, and a process that the job started, must end."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom quantmill.settings import Settings\nfrom tasks.sandbox.sandbox import Sandbox\n"
        "from tests.toy_job import Arguments\n"
        f"with Sandbox(Settings(home=Path({str(tmp_path / 'home')!r}))).run(Arguments(), 'thing'): pass\n"
    )
    hook = tmp_path / "site" / "sitecustomize.py"  # makes the job hang as an engine would
    hook.parent.mkdir()
    hook.write_text(_HANGING_JOB.format(pids=str(tmp_path / "pids")))
    paths = os.pathsep.join([str(hook.parent), str(ROOT)])
    real = tmp_path / "python"
    real.write_text(f'#!/bin/sh\nPYTHONPATH={paths} exec {sys.executable} "$@"\n')
    real.chmod(0o755)
    parent = subprocess.Popen(
        [sys.executable, str(script)], env={**os.environ, "PYTHONPATH": str(ROOT), "QUANTMILL_PYTHON": str(real)}
    )
    deadline = time.monotonic() + 30
    while not (tmp_path / "pids").exists() or not (tmp_path / "pids").read_text().count(" "):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    job, grandchild = map(int, (tmp_path / "pids").read_text().split())
    time.sleep(1.5)  # the job is at work by now
    assert not gone(job, wait_s=0)
    parent.kill()
    parent.wait()
    assert gone(job)
    assert gone(grandchild)
    with scratch(tmp_path / "home" / "scratch"):
        assert len(list((tmp_path / "home" / "scratch").iterdir())) == 1, "what the killed run left is removed"


def test_two_runs_share_a_scratch_root(tmp_path: Path) -> None:
    with scratch(tmp_path) as first:
        done = threading.Event()

        def other() -> None:
            with scratch(tmp_path):
                done.set()

        threading.Thread(target=other).start()
        assert done.wait(5)
        assert first.is_dir(), "a folder in use is not taken for a leftover"


def test_a_closed_sandbox_runs_nothing(tmp_path: Path) -> None:
    with pytest.raises(NotCached), ClosedSandbox(Settings(home=tmp_path / "home")).run(Arguments(), "x"):
        pass
    assert not (tmp_path / "home").exists()
