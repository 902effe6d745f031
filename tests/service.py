"""The factory as a service, for tests: a Prefect server, the bootstrap and workers as processes.

All processes die with the test.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import yaml

from infra.stack import postgres
from infra.stack.parts import answers, prefect_command
from infra.stack.processes import Part, spawn
from quantmill.recipe.recipe import VariantSpec
from tests.debian import debian_package
from tests.line import ROOT, Line, count_starts, started, wait_for_start

ENGINE = {"command": f"{sys.executable} -m prefect.engine"}
POOLS = [
    {"name": "cpu", "memory": "16GB", "threads": 1},
    # On the processor, by this list alone: the pool is one by its name, its queue and its workers. Its runs start at once,
    # those of the other through the process in which Prefect prepares them.
    {"name": "gpu", "device": "cpu", "memory": "8GB", "threads": 1, "methods": ["gptq", "gguf"],
     "job_variables": ENGINE},
]  # fmt: skip
RECIPE: dict[str, Any] = {
    "calibration": {"samples": 4, "sequence_length": 128},
    "evaluation": {"samples": 4, "sequence_length": 128, "seed": 1},
    "variants": [
        {"method": "bitsandbytes", "type": ["nf4"]},
        {"method": "gptq", "bits": [4]},
        {"method": "gguf", "type": ["Q8_0"]},
    ],
    "gates": {"max_perplexity_ratio": 1.5, "max_mean_kl": 0.5},
    "publish": {"model": "tiny"},
}
# A job that waits ends when nobody waits for it any more, as a real one does.
_OBEY = """
for order in {orders}/*; do
  if grep -q '"name":"'$(basename $order)'"' "$3"; then
    [ "$(cat $order)" = fail ] && exit 7
    while [ -e $order ] && kill -0 $PPID; do sleep 0.1; done
  fi
done
"""
_FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


class Embedded:
    """The recipe on this machine without a service, run once in a folder: its summary and its home."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.recipe, self.home = RECIPE | {"model": {"source": str(model)}}, folder / "home"
        done = folder / "line" / "summary.json"
        if not done.exists():
            Line(folder / "line", self.home, self.recipe).run()
        self.summary: dict[str, Any] = json.loads(done.read_text())

    def share(self, home: Path, *without: str) -> None:
        """Link all results into another home, except those of the variants in `without`."""
        own = shutil.ignore_patterns("mlflow", "prefect", "logs", "reports", "scratch", "models")
        shutil.copytree(self.home, home, copy_function=os.link, ignore=own, dirs_exist_ok=True)
        for stage in ("artifact", "report", "run"):
            for path in (home / "store" / "stages" / stage).glob("*.json"):
                value = json.loads(path.read_bytes())["value"]
                spec = value.get("spec")
                name = VariantSpec.model_validate(spec).name if spec else value.get("name", "")
                if stage == "run" or name in without:
                    path.unlink()


class Database:
    """The Prefect server's database: Postgres, installed if need be, else SQLite.

    A busy server locks SQLite for a minute at times.
    """

    def __init__(self, folder: Path) -> None:
        memory = Path("/dev/shm")
        self._folder = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else folder, prefix="quantmill-"))
        self._folder.chmod(0o711)  # Postgres' user passes through
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"sqlite+aiosqlite:///{self._folder / 'prefect.db'}"
        debian_package("postgresql", f"{postgres.ROOT}/*/bin/postgres")
        cluster = postgres.find(self._folder / "postgres")
        if cluster is None:
            return
        cluster.create("--no-sync")
        part, log = cluster.part("fsync=off"), folder / "logs" / "postgres.log"
        self._process = spawn(part, self._folder, log, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while not part.is_healthy():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        self.url = cluster.url

    @property
    def pid(self) -> int:
        """The process id of Postgres; 0: the database is a file."""
        return self._process.pid if self._process else 0

    def stop(self) -> None:
        """End the database's process and remove its files."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)  # at once
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


class Service:
    """A server and its workers, with all files in one folder; its path identifies the processes."""

    def __init__(self, folder: Path, pools: list[dict[str, Any]] = POOLS, **environment: str) -> None:
        self.folder, self.home, self.starts, self._orders = (
            folder,
            folder / "home",
            folder / "starts",
            folder / "orders",
        )
        for made in (self.home, self.starts, self._orders, folder / "logs"):
            made.mkdir(parents=True)
        self._database = Database(folder)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/api"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "QUANTMILL"))}
        self.environment = kept | {
            "PYTHONPATH": str(ROOT),
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": self._database.url,
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_WORKER_PREFETCH_SECONDS": "1",
            "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "1",
            "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_LOOP_SECONDS": "2",
            "PREFECT_LOGGING_COLORS": "false",
            "QUANTMILL_HOME": str(self.home),
            "QUANTMILL_POOLS": str(self.list_pools("pools", pools)),
            "QUANTMILL_PYTHON": str(self.interpreter("python")),
            "QUANTMILL_BUSY_SHARE": "1",  # as in conftest.py
            **environment,
        }
        user, _, password = environment.get("PREFECT_API_AUTH_STRING", "").partition(":")
        self._login = (user, password) if user else None
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def list_pools(self, name: str, pools: list[dict[str, Any]]) -> Path:
        """Return a file that lists pools."""
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"pools": pools}))
        return path

    def interpreter(self, name: str, first: str = "") -> Path:
        """Return an interpreter for jobs: it counts its starts, runs `first` in the shell, and obeys `order`."""
        return count_starts(self.folder / name, self.starts, f"{first}\n{_OBEY.format(orders=self._orders)}")

    def order(self, variant: str, what: str = "") -> None:
        """Make jobs of a variant `wait` or `fail` from now on; an empty `what` lets waiting jobs go on."""
        path = self._orders / variant
        path.write_text(what) if what else path.unlink()

    def start(self, name: str, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start a process of the service; its output goes into a log of that name."""
        part = Part(name, (sys.executable, "-m", *arguments), lambda: True, self.environment)
        process = spawn(part, self.folder, self.folder / "logs" / f"{name}.log", signal.SIGKILL)
        self.processes[name] = process
        return process

    def start_server(self, log_level: str = "warning") -> None:
        """Start the server and wait until it answers. From `info` on its log has a line for each request."""
        _, _, *arguments = prefect_command("127.0.0.1", self.port, log_level)
        process = self.start("server", *arguments)
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and process.poll() is None:
            if answers(f"{self.url}/health"):
                return
            time.sleep(0.2)
        raise AssertionError(self.log("server"))

    @property
    def database_process(self) -> int:
        """The process id of Postgres; 0: the database is a file."""
        return self._database.pid

    def replace_database(self) -> None:
        """Throw the database away; the next server starts on an empty one."""
        self._database.stop()
        self._database = Database(self.folder)
        self.environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = self._database.url

    def start_worker(self, pool: str, name: str = "", *options: str) -> "subprocess.Popen[bytes]":
        """Start a worker of a pool."""
        name = name or f"worker-{pool}"
        told = ("--pool", pool, "--name", name, "--type", "process", *options)
        return self.start(name, "prefect", "worker", "start", *told)

    def quantmill(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run the command line to its end."""
        return subprocess.run(
            [sys.executable, "-m", "quantmill.cli", *arguments],
            env=self.environment | environment, cwd=self.folder, capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Return the API's answer; ask again if a busy SQLite answers 503, as Prefect's own clients do."""
        for wait_s in (0.5, 1, 2, 4, 8, 0):
            response = httpx.request(method, f"{self.url}{path}", json=body, auth=self._login, timeout=60)
            if response.status_code < 500:
                break
            time.sleep(wait_s)
        response.raise_for_status()
        return response.json() if response.content else None

    def trigger(self, recipe: dict[str, Any], prepared: bool = False, **environment: str) -> UUID:
        """Start a line as the dashboard does; return its run.

        `prepared`: start the run through the process in which Prefect prepares runs.
        """
        found = self.call("GET", "/deployments/name/compress/compress")
        body = {
            "parameters": {"recipe": recipe},
            "job_variables": ({} if prepared else ENGINE) | ({"env": environment} if environment else {}),
            "idempotency_key": str(uuid4()),  # of this call, should it have to be repeated
        }
        return UUID(self.call("POST", f"/deployments/{found['id']}/create_flow_run", body)["id"])

    def wait_for_start(self, job: str, timeout_s: float = 300.0) -> int:
        """Return the process of the job `kind name` as soon as it has started."""
        return wait_for_start(self.starts, job, timeout_s)

    def started(self, variant: str) -> list[str]:
        """Return the kinds of the engine processes that worked for a variant."""
        return [job.partition(" ")[0] for job in started(self.starts) if job.partition(" ")[2] == variant]

    def run(self, run: UUID) -> dict[str, Any]:
        """Return a run as the API shows it."""
        return dict(self.call("GET", f"/flow_runs/{run}"))

    def wait(self, run: UUID, timeout_s: float = 600.0, states: set[str] = _FINAL) -> dict[str, Any]:
        """Return a run once it is in one of the states."""
        deadline, seen = time.monotonic() + timeout_s, dict[str, Any]()
        while time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                seen = self.run(run)
                if seen["state_type"] in states or seen["state_name"] in states:
                    return seen
            time.sleep(0.5)
        raise AssertionError(f"{seen.get('state')}\n{self.logs_of(run)}")

    def runs(self, deployment: str = "") -> list[dict[str, Any]]:
        """Return all runs, or those of a deployment, in the order of their creation."""
        wanted = {"deployments": {"name": {"any_": [deployment]}}} if deployment else {}
        found = self.call("POST", "/flow_runs/filter", wanted | {"limit": 200})
        return sorted(found, key=lambda run: str(run["created"]))

    def artifacts_of(self, run: UUID) -> list[dict[str, Any]]:
        """Return the artifacts on a run's page."""
        return list(self.call("POST", "/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [str(run)]}}}))

    def logs_of(self, run: UUID) -> str:
        """Return a run's log lines."""
        with suppress(httpx.HTTPError):
            wanted = {"logs": {"flow_run_id": {"any_": [str(run)]}}, "limit": 200}
            return "\n".join(line["message"] for line in self.call("POST", "/logs/filter", wanted))
        return ""

    def log(self, name: str) -> str:
        """Return the end of a process's output."""
        return (self.folder / "logs" / f"{name}.log").read_text(errors="replace")[-6000:]

    def process_of(self, run: UUID) -> int:
        """Return the process that executes a run."""
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"PREFECT__FLOW_RUN_ID={run}".encode() in (place / "environ").read_bytes().split(b"\0"):
                    words = (place / "cmdline").read_bytes()
                    if b"prefect.engine" in words or b"flow-run" in words:
                        return int(place.name)
        raise AssertionError(f"no process executes {run}")

    def pids(self) -> list[int]:
        """Return the processes that belong to this service, by its folder in their arguments or environment."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                words = (place / "cmdline").read_bytes() + (place / "environ").read_bytes()
                if str(self.folder).encode() in words and int(place.name) != os.getpid():
                    found.append(int(place.name))
        return found

    def stop(self) -> None:
        """End all processes of the service, also those that they left behind."""
        for process in self.processes.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._database.stop()
