"""What `docs/operations.md` says to do, done: drain, interrupt, metrics, back up and restore, on a real server with no-op variants.

    python -m benchmarks.drills

Prints a line for each thing that was looked at, and ends with 1 where one of them is not as the page says.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
from prefect import flow
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_LOGGING_TO_API_ENABLED,
    temporary_settings,
)

from benchmarks.scheduling import artifact_file, factory, point_at_no_ops
from flows.dispatch import Dispatcher
from flows.pools import read_pools
from quantmill.artifact import VariantJob
from quantmill.report import Outcome
from quantmill.store.places import open_store
from tests import samples
from tests.service import Service

_FAILED: list[str] = []


def look(what: str, true: bool, seen: object = "") -> None:
    """Print whether it is so."""
    sys.stdout.write(f"{'as said' if true else 'NOT SO '} | {what} | {seen}\n")
    sys.stdout.flush()
    if not true:
        _FAILED.append(what)


def line(service: Service, jobs: list[VariantJob]) -> dict[str, Outcome]:
    """Build the jobs as a line does."""
    pools, store = read_pools(Path(service.environment["QUANTMILL_POOLS"])), open_store(service.home / "store")

    @flow(name="line", persist_result=False)
    async def build() -> dict[str, Outcome]:
        return await Dispatcher(store, pools, "cpu").build_all(jobs)

    quiet = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, PREFECT_LOGGING_TO_API_ENABLED: False}
    with temporary_settings({PREFECT_API_URL: service.url} | quiet):
        return asyncio.run(build())


def jobs_of(service: Service, name: str, count: int, seconds: float) -> list[VariantJob]:
    files = artifact_file(service)
    return [samples.job(f"sleep-{seconds:g}-{name}{n}", files=files) for n in range(count)]


def states(service: Service, name: str) -> list[str]:
    """Return how the runs of a drill's variants stand, oldest first."""
    return [run["state_name"] for run in service.runs("cpu") if f"-{name}" in run["name"]]


def until(true: Callable[[], bool], timeout_s: float = 120) -> bool:
    """Return whether it came true in time."""
    deadline = time.monotonic() + timeout_s
    while not true() and time.monotonic() < deadline:
        time.sleep(0.5)
    return true()


def queue(service: Service, order: str) -> None:
    command = [sys.executable, "-m", "prefect", "work-queue", order, "variants", "--pool", "cpu"]
    subprocess.run(command, env=service.environment, check=True, capture_output=True)


def drain(service: Service) -> None:
    """A queue is paused, what runs ends, its worker is stopped, and another takes the rest."""
    jobs = jobs_of(service, "drain", 2, 15)
    with ThreadPoolExecutor() as beside:
        built = beside.submit(line, service, jobs)
        until(lambda: "Running" in states(service, "drain"))
        queue(service, "pause")
        until(lambda: "Completed" in states(service, "drain"))
        time.sleep(5)
        ended, waits = states(service, "drain")
        look("drain: what ran ended, nothing new began", ended == "Completed" and waits in ("Scheduled", "Late"), waits)
        worker = service.processes["worker-0"]
        worker.send_signal(signal.SIGINT)
        look("drain: the idle worker ends with 0 at Ctrl-C", worker.wait(60) == 0, worker.returncode)
        queue(service, "resume")
        service.start_worker("cpu", "worker-1", "--limit", "1", "--work-queue", "variants")
        outcomes = built.result(180)
    look("drain: another worker did the rest", all(made.report for made in outcomes.values()), states(service, "drain"))


def interrupt(service: Service) -> None:
    """Ctrl-C on a worker that works: its run crashes and is tried again by another."""
    jobs = jobs_of(service, "interrupt", 1, 10)
    with ThreadPoolExecutor() as beside:
        built = beside.submit(line, service, jobs)
        until(lambda: "Running" in states(service, "interrupt"))
        worker = service.processes["worker-1"]
        os.killpg(worker.pid, signal.SIGINT)  # as a terminal does
        with suppress(subprocess.TimeoutExpired):
            worker.wait(60)
        look("Ctrl-C: the worker ended", worker.poll() is not None, worker.poll())
        service.start_worker("cpu", "worker-2", "--limit", "1", "--work-queue", "variants")
        outcomes = built.result(300)
    (made,) = outcomes.values()
    look(
        "Ctrl-C: its run crashed and was tried again",
        states(service, "interrupt") == ["Crashed", "Completed"],
        (states(service, "interrupt"), made.tried),
    )


def metrics(service: Service) -> None:
    """The server's own figures, the exporter's, and a worker that says that it polls."""
    own = httpx.get(f"{service.url}/metrics", timeout=10)
    look(
        "PREFECT_SERVER_METRICS_ENABLED: /api/metrics",
        own.status_code == 200 and "process_cpu_seconds_total" in own.text,
        own.status_code,
    )
    printed = service.quantmill("metrics").stdout
    look(
        "quantmill metrics",
        'quantmill_variants_total{method="bitsandbytes",outcome="Completed"}' in printed,
        f"{len(printed.splitlines())} lines",
    )
    service.environment |= {"PREFECT_WORKER_WEBSERVER_PORT": str(service.port + 1)}
    worker = service.start_worker(
        "cpu", "worker-health", "--limit", "1", "--work-queue", "variants", "--with-healthcheck"
    )

    def answer() -> int:
        with suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{service.port + 1}/health", timeout=5).status_code
        return 0

    look("worker --with-healthcheck: /health", until(lambda: answer() == 200, 60), answer())
    worker.kill()
    worker.wait()


def terminate(service: Service) -> None:
    """SIGTERM to a worker that works, as systemd and Kubernetes send it."""
    with ThreadPoolExecutor() as beside:
        built = beside.submit(line, service, jobs_of(service, "terminate", 1, 10))
        until(lambda: "Running" in states(service, "terminate"))
        worker = service.processes["worker-2"]
        worker.terminate()
        with suppress(subprocess.TimeoutExpired):
            worker.wait(60)
        look("SIGTERM: the worker ended with 0", worker.poll() == 0, worker.poll())
        service.start_worker("cpu", "worker-3", "--limit", "1", "--work-queue", "variants")
        (made,) = built.result(300).values()
    seen = states(service, "terminate")
    look("SIGTERM: its run crashed and was tried again", seen == ["Crashed", "Completed"], (seen, made.tried))


def client_metrics(service: Service) -> None:
    """Prefect's own figures of a worker: its runs must not want the same port."""
    service.processes["worker-3"].terminate()
    service.processes["worker-3"].wait()
    port = str(service.port + 2)
    service.environment |= {"PREFECT_CLIENT_METRICS_ENABLED": "true", "PREFECT_CLIENT_METRICS_PORT": port}
    service.start_worker("cpu", "worker-4", "--limit", "1", "--work-queue", "variants")
    (made,) = line(service, jobs_of(service, "metrics", 1, 0)).values()
    figures = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=10)
    seen = states(service, "metrics")
    look(
        "PREFECT_CLIENT_METRICS_ENABLED: a worker's runs go on", bool(made.report) and figures.status_code == 200, seen
    )


def restore(service: Service) -> None:
    """The database and the store are lost in turn, restored and not restored; the same line is started again."""
    jobs, store, saved = jobs_of(service, "restore", 3, 0), service.home / "store", service.folder / "saved"
    line(service, jobs[:2])
    dump = _psql(service, "pg_dump", "--clean", "--if-exists")
    shutil.copytree(store, saved)
    line(service, jobs)  # one more after the backup
    before = len(states(service, "restore"))

    _new_database(service)
    _psql(service, "psql", "--quiet", given=dump)
    service.start_server()
    look(
        "database restored: its runs are those of the backup",
        len(states(service, "restore")) == 2,
        states(service, "restore"),
    )
    found = line(service, jobs)
    look(
        "database restored, store as it was: nothing is made again",
        len(states(service, "restore")) == 2 and _cached(found) == 3,
        _cached(found),
    )

    shutil.rmtree(store)
    shutil.copytree(saved, store)
    found = line(service, jobs)
    look(
        "store restored: what it missed is made again",
        (_cached(found), len(states(service, "restore"))) == (2, 3),
        _cached(found),
    )

    shutil.rmtree(store)
    artifact_file(service)
    found = line(service, jobs)
    look(
        "store lost: all is made again, whatever the server says of it",
        (_cached(found), all(o.report for o in found.values())) == (0, True),
        states(service, "restore"),
    )

    _new_database(service)
    service.start_server()
    boot = service.quantmill("bootstrap")
    look(
        "database lost: bootstrap makes all anew",
        boot.returncode == 0 and "unchanged" not in boot.stdout,
        boot.stdout.count("created"),
    )
    found = line(service, jobs)
    look(
        "database lost, store as it was: nothing is made again",
        _cached(found) == 3 and not states(service, "restore"),
        _cached(found),
    )
    point_at_no_ops(service)
    more = line(service, jobs_of(service, "restored", 1, 0))
    look(
        "database lost: the workers that were there go on",
        all(o.report for o in more.values()),
        (before, states(service, "restored")),
    )


def _cached(outcomes: dict[str, Outcome]) -> int:
    return sum(made.cached for made in outcomes.values())


def _new_database(service: Service) -> None:
    """Lose the database: the server runs on an empty one from its next start on."""
    server = service.processes["server"]
    server.terminate()
    server.wait()
    service.replace_database()


def _psql(service: Service, program: str, *options: str, given: bytes = b"") -> bytes:
    """Run one of Postgres' programs on the server's database."""
    place = service.environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"].partition("host=")[2]
    binary = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))[-1]
    command = [str(binary), "-h", place, "-U", "quantmill", *options, "postgres"]
    return subprocess.run(command, input=given, check=True, capture_output=True).stdout


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as name,
        factory(Path(name), 1, PREFECT_SERVER_METRICS_ENABLED="true", PREFECT_WORKER_QUERY_SECONDS="1") as service,
    ):
        for drill in (drain, interrupt, metrics, terminate, client_metrics, restore):
            drill(service)
    sys.exit(bool(_FAILED))


if __name__ == "__main__":
    main()
