"""Runs a factory with no-op variants: a real server, one pool, its workers, and a line."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_LOGGING_TO_API_ENABLED,
    temporary_settings,
)

from flows.dispatch import Dispatcher
from flows.pools.pools import read_pools
from quantmill.files.entries import FileEntry
from quantmill.records.job import VariantJob
from quantmill.records.report import Outcome
from quantmill.store.places import open_store
from tests.service import Service

LOOK_S = 5
"""Seconds between two polls of a worker; Prefect's default of 10 would be half of the measured time."""


@contextmanager
def factory(folder: Path, workers: int, command: str = "", **environment: str) -> Iterator[Service]:
    """Yield a server with one pool and its workers, each with one slot."""
    pool: dict[str, Any] = {"name": "cpu", "memory": "16GB", "threads": 1}
    started_by = {"job_variables": {"command": command}} if command else {}
    looks = {
        "PREFECT_WORKER_QUERY_SECONDS": str(LOOK_S),
        "PREFECT_SERVER_LOGGING_LEVEL": "INFO",
    }  # one log line per request
    service = Service(folder / "it", [pool | started_by], **looks | environment)
    try:
        service.start_server(log_level="info")
        service.quantmill("bootstrap").check_returncode()
        point_at_no_ops(service)
        for n in range(workers):
            service.start_worker("cpu", f"worker-{n}", "--limit", "1", "--work-queue", "variants")
        deadline = time.monotonic() + 120
        while len(_online(service)) < workers and time.monotonic() < deadline:
            time.sleep(1)
        yield service
    finally:
        service.stop()


def point_at_no_ops(service: Service) -> None:
    """Let the pool run the benchmark's flow in place of the shipped flow."""
    deployment = service.call("GET", "/deployments/name/variant/cpu")
    service.call("PATCH", f"/deployments/{deployment['id']}", {"entrypoint": "benchmarks.scheduling_work.variant"})


def _online(service: Service) -> list[dict[str, Any]]:
    found = service.call("POST", "/work_pools/cpu/workers/filter", {})
    return [worker for worker in found if worker["status"] == "ONLINE"]


def build(service: Service, jobs: list[VariantJob]) -> dict[str, Outcome]:
    """Build the jobs as a line does: by the shipped dispatcher, from this process."""
    pools, store = read_pools(Path(service.environment["QUANTMILL_POOLS"])), open_store(service.home / "store")

    @flow(name="line", persist_result=False)
    async def line() -> dict[str, Outcome]:
        return await Dispatcher(store, pools, "cpu").build_all(jobs)

    # Without the threads that would still talk to the server after its end.
    quiet = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, PREFECT_LOGGING_TO_API_ENABLED: False}
    with temporary_settings({PREFECT_API_URL: service.url} | quiet):
        return asyncio.run(line())


def artifact_file(service: Service) -> tuple[FileEntry, ...]:
    """Store a small file that stands for every variant's artifact, and return its entry."""
    folder = service.folder / "artifact"
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    return open_store(service.home / "store").add_folder(folder)
