"""`make stack`: the whole service on this machine, with logins, from its first start to its end.

The tests of this module follow each other on one stack.
"""

import json
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from botocore.exceptions import ClientError

from infra.stack import postgres, seaweedfs, site
from infra.stack.logins import Logins
from infra.stack.site import pools_for_here
from quantmill.errors import RegistrationError, RequestError
from quantmill.settings import Settings
from tasks.register.runs import register_run
from tasks.tracking.client import require_answer
from tests.debian import debian_package
from tests.finished_run import RECIPE, SUMMARY
from tests.line import ROOT, processes_of
from tests.service import POOLS

PARTS = ("prefect", "mlflow", "s3", "bootstrap", "worker-cpu", "worker-gpu")
_OURS = ("PREFECT", "QUANTMILL", "MLFLOW", "AWS")


def free_base(count: int) -> int:
    """Return a port that is free with those that follow it."""
    for base in range(21000, 30000, 50):
        with ExitStack() as held, suppress(OSError):
            for port in range(base, base + count):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
            return base
    raise AssertionError("no free ports")


class Stack:
    """A home, and the command that starts the stack in it."""

    def __init__(self, folder: Path) -> None:
        self.home, self.output, self.port = folder / "home", folder / "output", free_base(10)
        self.folder = self.home / "stack"
        self.pools = folder / "pools.yaml"
        self.pools.write_text(yaml.safe_dump({"pools": POOLS}))
        plain = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        self.environment = plain | {"PREFECT_WORKER_QUERY_SECONDS": "1", "QUANTMILL_HOME": str(self.home)}
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        return [sys.executable, "-m", "infra.stack", "--port", str(self.port), "--pools", str(self.pools)]

    def start(self) -> str:
        """Start it and return what it said once everything was healthy."""
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                self.command(), env=self.environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        deadline = time.monotonic() + 300
        while "Ctrl-C" not in self.said():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.1)
        return self.said()

    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def end(self, number: int = signal.SIGINT) -> int:
        assert self.process
        self.process.send_signal(number)
        return self.process.wait(60)

    @property
    def client(self) -> dict[str, str]:
        """What a shell has that has read the file of logins."""
        script = f". {self.folder}/client.sh; env -0"
        lines = subprocess.run(["sh", "-c", script], env={}, capture_output=True, text=True, check=True).stdout
        return dict(line.partition("=")[::2] for line in lines.split("\0") if "=" in line)  # type: ignore[misc]

    def call(self, method: str, path: str, body: object = None, password: str = "") -> httpx.Response:
        url, login = self.client["PREFECT_API_URL"], self.client["PREFECT_API_AUTH_STRING"].split(":")
        return httpx.request(method, f"{url}{path}", json=body, auth=(login[0], password or login[1]), timeout=60)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Iterator[Stack]:
    debian_package("postgresql", f"{postgres.ROOT}/*/bin/postgres")
    folder = tmp_path_factory.mktemp("stack")
    for above in (folder, *folder.parents):
        if not (mode := above.stat().st_mode) & 0o001:
            above.chmod(mode | 0o011)  # pytest's folders are closed to the user that Postgres runs as
    made = Stack(folder)
    (made.home / "mlflow").mkdir(parents=True)
    (made.home / "mlflow" / "mlflow.db").write_bytes(empty_mlflow.read_bytes())  # as an embedded run leaves one
    try:
        made.start()
        yield made
    finally:
        if made.process and made.process.poll() is None:
            made.process.kill()
            made.process.wait()


def pids(stack: Stack) -> list[int]:
    """Return the processes that know of the stack's home, from their arguments or environment."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (place / "cmdline").read_bytes() + (place / "environ").read_bytes()
            if str(stack.home).encode() in words:
                found.append(int(place.name))
    return found


def test_everything_is_healthy_and_the_table_says_where(stack: Stack) -> None:
    rows = dict(re.findall(r"^│ (\S+) +│ (\w+) ", stack.said(), re.MULTILINE))
    wanted = (["postgres"] if postgres.find(stack.folder / "postgres") else []) + list(PARTS)
    assert rows == {name: "done" if name == "bootstrap" else "healthy" for name in wanted}
    assert "created" in stack.said()
    assert f"http://127.0.0.1:{stack.port}" in stack.said()
    assert ("SQLite" in stack.said()) == ("postgres" not in wanted)


def test_prefect_answers_to_its_password_alone(stack: Stack) -> None:
    assert httpx.get(f"http://127.0.0.1:{stack.port}/api/admin/version").status_code == 401
    assert stack.call("GET", "/admin/version", password="wrong").status_code == 401
    assert stack.call("GET", "/admin/version").status_code == 200
    assert stack.call("GET", "/admin/settings").json()["server"]["analytics_enabled"] is False


def test_mlflow_answers_to_its_login_alone_and_a_run_is_registered_there(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, client = stack.client["QUANTMILL_MLFLOW_URI"], stack.client
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistrationError, match="401"):
        require_answer(uri, "")
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, client[name])
    assert register_run(RECIPE, SUMMARY, {}, {"gguf-q8_0": "d" * 64}, uri, {"report.md": b"# it"}, {})
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "password1234")
    with pytest.raises(RegistrationError, match="401"):
        require_answer(uri, "")


def test_the_object_store_asks_for_keys(stack: Stack) -> None:
    client = stack.client
    with pytest.raises(ClientError, match=r"InvalidAccessKeyId|SignatureDoesNotMatch|AccessDenied"):
        seaweedfs.client(client["AWS_ENDPOINT_URL"], "any", "any").list_buckets()
    listed = seaweedfs.client(client["AWS_ENDPOINT_URL"], client["AWS_ACCESS_KEY_ID"], client["AWS_SECRET_ACCESS_KEY"])
    assert [bucket["Name"] for bucket in listed.list_buckets()["Buckets"]] == ["quantmill"]


def test_nothing_listens_beyond_the_loopback(stack: Stack) -> None:
    ours = {str(link.readlink()) for pid in pids(stack) for link in links(pid)}
    listening = [
        fields[1].partition(":")[0]
        for family in ("tcp", "tcp6")
        for fields in map(str.split, Path(f"/proc/net/{family}").read_text().splitlines()[1:])
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in ours
    ]
    assert len(listening) >= 10
    assert set(listening) == {"0100007F"}


def links(pid: int) -> list[Path]:
    with suppress(OSError):
        return [link for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
    return []


def test_a_worker_runs_a_flow_that_reads_the_store(stack: Stack) -> None:
    watch = stack.call("GET", "/deployments/name/watch/watch").json()
    run = stack.call("POST", f"/deployments/{watch['id']}/create_flow_run", {}).json()
    deadline, seen = time.monotonic() + 60, dict[str, Any]()
    while time.monotonic() < deadline and seen.get("state_type") not in ("COMPLETED", "FAILED", "CRASHED"):
        time.sleep(0.5)
        seen = stack.call("GET", f"/flow_runs/{run['id']}").json()
    assert seen["state_type"] == "COMPLETED", seen["state"]


def test_secrets_are_in_two_closed_files_and_in_no_log_or_argument(stack: Stack) -> None:
    kept = json.loads((stack.folder / "logins.json").read_text())
    assert len(set(kept.values())) == len(Logins.model_fields)
    closed = ("logins.json", "client.sh", "s3-keys.json")
    assert {stat.S_IMODE((stack.folder / name).stat().st_mode) for name in closed} == {0o600}
    folders = [path for path in stack.folder.iterdir() if path.is_dir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}
    logs = [path.read_bytes() for path in (stack.folder / "logs").iterdir()]
    arguments = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids(stack)]
    assert len(logs) >= 6
    assert len(arguments) >= 7
    for secret in kept.values():
        assert not any(secret.encode() in text for text in (*logs, *arguments, stack.output.read_bytes()))


def test_a_second_start_in_the_same_home_is_refused_in_one_line(stack: Stack) -> None:
    assert stack.process
    second = subprocess.run(stack.command(), env=stack.environment, cwd=ROOT, capture_output=True, text=True)
    assert second.returncode == 2
    assert second.stderr == f"error: {stack.folder}: a stack runs there already, process {stack.process.pid}\n"


def test_ctrl_c_leaves_no_process_and_the_next_start_finds_everything(stack: Stack) -> None:
    logins = (stack.folder / "logins.json").read_bytes()
    assert stack.end() == 0
    assert processes_of(stack.home) == []
    assert stack.said().endswith("ended; the next start uses the same data\n")
    assert "killed" not in stack.said()
    # To a shell that talks to the stack, its own store and MLflow are named as if they were others'.
    talking = stack.environment | stack.client
    refused = subprocess.run(stack.command(), env=talking, cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 2
    assert (
        refused.stderr
        == f"error: this shell has read {stack.folder}/client.sh: start the stack in a shell that has not\n"
    )
    said = stack.start()
    assert re.search(r"bootstrap +│ done +│ \d+ unchanged +│", said), said
    assert (stack.folder / "logins.json").read_bytes() == logins
    assert stack.call("POST", "/flow_runs/count").json() >= 1


def test_a_part_that_dies_soon_ends_the_stack_and_shows_its_log(stack: Stack) -> None:
    (weed,) = [pid for pid in pids(stack) if b"weed\0server" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(weed, signal.SIGKILL)
    assert stack.process
    assert stack.process.wait(60) == 1
    assert f"error: s3 was killed by SIGKILL; the end of {stack.folder}/logs/s3.log:" in stack.said()
    assert processes_of(stack.home) == []


def test_a_pool_of_gpus_is_left_out_where_there_is_none(tmp_path: Path) -> None:
    path, kept, left_out = pools_for_here(ROOT / "deployments" / "pools.yaml", tmp_path)
    if site._DRIVER.exists():
        assert (len(kept), left_out) == (2, [])
        return
    assert [[pool.name for pool in pools] for pools in (kept, left_out)] == [["cpu"], ["gpu"]]
    assert shlex.split(kept[0].job_variables["command"]) == [sys.executable, "-m", "prefect.engine"]
    assert pools_for_here(path, tmp_path) == (path, kept, [])


def test_runs_elsewhere_are_not_told_of_this_machine_s_interpreter(tmp_path: Path) -> None:
    listed = tmp_path / "listed.yaml"
    here = {"name": "cpu", "memory": "8GB", "job_variables": {"command": "own -m prefect.engine"}}
    there = {"name": "pods", "memory": "8GB", "type": "kubernetes", "template": "job.json"}
    listed.write_text(yaml.safe_dump({"pools": [here, there]}))
    _, kept, _ = pools_for_here(listed, tmp_path)
    assert [pool.job_variables for pool in kept] == [here["job_variables"], {}]


def test_a_home_too_deep_for_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"^QUANTMILL_HOME: .*: too long a path for sockets below it"):
        site.folder_of(Settings(home=tmp_path / ("x" * 100)))
