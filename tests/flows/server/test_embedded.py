"""Prefect on this machine: flows are recorded, homes are shared, and no server survives its parent."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from prefect import flow, get_run_logger, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName, TaskRunFilter, TaskRunFilterName
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY

from flows.server import embedded
from flows.server.embedded import ServerError, prefect_api

CHECKOUT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.slow


@task(task_run_name="double {number}")
def double(number: int) -> int:
    return 2 * number


@flow(flow_run_name="part {number}")
def part(number: int) -> int:
    get_run_logger().info("part %d", number)
    return double(number)


@flow(flow_run_name="whole")
async def whole() -> list[int]:
    return list(await asyncio.gather(*(asyncio.to_thread(part, number) for number in (1, 2))))


def answers(url: str) -> bool:
    """Say whether something listens at the URL's port."""
    try:
        socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), timeout=1).close()
    except OSError:
        return False
    return True


def test_runs_of_threads_and_tasks_are_recorded(prefect_url: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert PREFECT_API_URL.value() == prefect_url
    assert PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value() is None
    assert asyncio.run(whole()) == [2, 4]
    assert "part" not in capfd.readouterr().err, "Prefect's lines stay off the console"
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=["whole", "part 1", "part 2"]))
        )
        assert {run.name: run.state_name for run in runs} == dict.fromkeys(("whole", "part 1", "part 2"), "Completed")
        parents = {run.name: run.parent_task_run_id for run in runs}
        assert parents["whole"] is None and parents["part 1"] and parents["part 2"], "sub-flows know their parent"
        wanted = TaskRunFilter(name=TaskRunFilterName(any_=["double 1", "double 2"]))
        deadline = time.monotonic() + 10  # Task runs arrive as events, a moment later.
        while len(done := client.read_task_runs(task_run_filter=wanted)) < 2 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert len(done) == 2


def test_a_configured_server_is_used(prefect_url: str, tmp_path: Path) -> None:
    with prefect_api(tmp_path) as url:
        assert url == prefect_url
    assert list(tmp_path.iterdir()) == [], "nothing was started"


def outside(script: str, home: Path) -> "subprocess.Popen[str]":
    """Start a script in a process that has no Prefect server configured."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(home)],
        cwd=CHECKOUT,
        env={**environment, "PREFECT_HOME": str(home / "prefect")},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_process_beside_starts_twice_and_leaves_nothing_when_killed(prefect_url: str, embedded_home: Path) -> None:
    """The session's server holds the same home open: SQLite's write-ahead log lets both write."""
    script = """
        import sys, time
        from pathlib import Path
        from prefect import flow
        from flows.server.embedded import prefect_api

        @flow
        def stranger():
            pass

        for number in (1, 2):
            with prefect_api(Path(sys.argv[1])) as url:
                stranger.with_options(flow_run_name=f"stranger {number}")()
                print(url, flush=True)
                if number == 2:
                    time.sleep(600)
    """
    process = outside(script, embedded_home)
    assert process.stdout is not None
    first, second = (process.stdout.readline().strip() for _ in range(2))
    assert len({first, second, prefect_url}) == 3
    assert not answers(first), "the first server went with its context"
    assert answers(second)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 10
    while answers(second) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not answers(second), "the second server went with its parent"
    with get_client(sync_client=True) as client:
        names = FlowRunFilterName(any_=["stranger 1", "stranger 2"])
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=names))
    assert [run.state_name for run in runs] == ["Completed", "Completed"]


def test_a_server_that_dies_says_why(tmp_path: Path) -> None:
    log = tmp_path / "prefect-server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-c", "raise SystemExit('the database is no database')"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
        )
    with pytest.raises(ServerError, match=r"status 1(?s:.)*the database is no database"):
        embedded._wait_until_ready(server, log)
    embedded._stop(server)


def test_a_login_in_the_server_s_address_is_not_said() -> None:
    login = "me:topsecret"

    class Ill(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(503)

        def log_message(self, *words: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Ill) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"127.0.0.1:{server.server_port}/api"
        with pytest.raises(ServerError) as ill:
            embedded._require_answer(f"http://{login}@{place}")
        server.shutdown()
    with pytest.raises(ServerError) as gone:
        embedded._require_answer(f"http://{login}@{place}")
    assert str(ill.value) == f"PREFECT_API_URL: no Prefect server answers at {place}: status 503"
    for error in (ill, gone):
        assert place in str(error.value)
        assert "topsecret" not in "".join(traceback.format_exception(error.value))
