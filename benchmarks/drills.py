"""Drills the procedures of `docs/operations.md` on a real server with no-op variants.

    python -m benchmarks.drills

The drills are: drain, interrupt, metrics, back up and restore. Each check prints a line; exit code 1: a check failed.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx

from benchmarks.drill import FAILED, jobs_of, look, states, until
from benchmarks.drill_restore import restore
from benchmarks.scheduling_factory import build, factory
from tests.service import Service


def queue(service: Service, order: str) -> None:
    command = [sys.executable, "-m", "prefect", "work-queue", order, "variants", "--pool", "cpu"]
    subprocess.run(command, env=service.environment, check=True, capture_output=True)


def drain(service: Service) -> None:
    """Pause a queue, let its run end, stop its worker, and let another worker do the rest."""
    jobs = jobs_of(service, "drain", 2, 15)
    with ThreadPoolExecutor() as beside:
        built = beside.submit(build, service, jobs)
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
    """Press Ctrl-C on a busy worker: its run crashes, and another worker tries the variant again."""
    jobs = jobs_of(service, "interrupt", 1, 10)
    with ThreadPoolExecutor() as beside:
        built = beside.submit(build, service, jobs)
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
    """Check the server's own metrics, the exporter's metrics, and the health check of a worker."""
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
    """Send SIGTERM to a busy worker, as systemd and Kubernetes do."""
    with ThreadPoolExecutor() as beside:
        built = beside.submit(build, service, jobs_of(service, "terminate", 1, 10))
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
    """Check Prefect's own metrics of a worker, whose runs must not use the same port."""
    service.processes["worker-3"].terminate()
    service.processes["worker-3"].wait()
    port = str(service.port + 2)
    service.environment |= {"PREFECT_CLIENT_METRICS_ENABLED": "true", "PREFECT_CLIENT_METRICS_PORT": port}
    service.start_worker("cpu", "worker-4", "--limit", "1", "--work-queue", "variants")
    (made,) = build(service, jobs_of(service, "metrics", 1, 0)).values()
    figures = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=10)
    seen = states(service, "metrics")
    look(
        "PREFECT_CLIENT_METRICS_ENABLED: a worker's runs go on", bool(made.report) and figures.status_code == 200, seen
    )


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as name,
        factory(Path(name), 1, PREFECT_SERVER_METRICS_ENABLED="true", PREFECT_WORKER_QUERY_SECONDS="1") as service,
    ):
        for drill in (drain, interrupt, metrics, terminate, client_metrics, restore):
            drill(service)
    sys.exit(bool(FAILED))


if __name__ == "__main__":
    main()
