"""The exporter against a real server and a real store, its answer read by Prometheus' own parser."""

import asyncio
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from prefect import flow, tags, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Failed, Scheduled
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

from flows.server.exporter import Exporter
from quantmill.store.places import open_store
from quantmill.store.store import Store
from tests import samples
from tests.line import ROOT

pytestmark = pytest.mark.slow


@task(task_run_name="quantize it")
def quantize() -> None:
    time.sleep(1)


@flow(name="variant")
def variant(error: str) -> State[None]:
    quantize()
    return Failed(name=error) if error else Completed()


def figures(text: str) -> dict[tuple[str, ...], float]:
    """Return (name, label values in order of their names...) -> value."""
    families = text_string_to_metric_families(text)
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in families
        for sample in family.samples
    }


def asked(store: Store) -> dict[tuple[str, ...], float]:
    registry = CollectorRegistry()
    registry.register(Exporter(store))
    return figures(generate_latest(registry).decode())


def publish(store: Store, folder: Path) -> None:
    """Publish two versions of 700 and 900 bytes that share a file of 500."""
    for name, length in {"a": 200, "b": 400}.items():
        made = folder / name
        made.mkdir()
        (made / "tokenizer.json").write_bytes(b"t" * 500)
        (made / "model.safetensors").write_bytes(name.encode() * length)
        manifest = samples.manifest(store.add_folder(made), f"m/{name}")
        store.commit(manifest, samples.version(manifest, variant=name))


def test_the_figures_are_those_of_server_and_store(prefect_url: str, tmp_path: Path) -> None:
    store, pool = open_store(tmp_path / "store"), f"pool-{uuid4().hex[:8]}"
    before = asked(store)
    with tags("quantmill", "hqq"):
        for error in ("", "", "OutOfMemory"):
            variant(error, return_state=True)

    async def let_one_wait() -> None:
        async with get_client() as client:
            await client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
            made = await client.create_deployment(
                flow_id=await client.create_flow_from_name("variant"), name=pool, work_pool_name=pool
            )
            await client.create_flow_run_from_deployment(made, state=Scheduled(), tags=["quantmill", "hqq"])
            await client.send_worker_heartbeat(work_pool_name=pool, worker_name="w")

    asyncio.run(let_one_wait())
    publish(store, tmp_path)
    deadline = time.monotonic() + 30  # the server counts task runs a moment later
    while (found := asked(store)).get(("quantmill_stages_total", "Completed", "quantize"), 0) < 3:
        assert time.monotonic() < deadline, found
        time.sleep(0.5)
    new = {key: value - before.get(key, 0.0) for key, value in found.items()}
    assert found["quantmill_up", "server"] == found["quantmill_up", "store"] == 1
    assert (
        new["quantmill_variants_total", "hqq", "Completed"],
        new["quantmill_variants_total", "hqq", "OutOfMemory"],
    ) == (2, 1)
    assert 3 <= new["quantmill_variant_seconds_total", "hqq"] < 30
    assert 3 <= new["quantmill_stage_seconds_total", "quantize"] < 30
    assert new["quantmill_runs_total", "variant", "Completed"] == 2
    assert new["quantmill_open_runs", "variant", "Scheduled"] == 1
    assert found["quantmill_waiting_runs", pool] == 1
    assert 0 < found["quantmill_oldest_wait_seconds", pool] < 60
    assert found["quantmill_workers", pool, "online"] == 1
    assert (found["quantmill_published_versions",], found["quantmill_published_bytes",]) == (2, 1100)


def test_what_does_not_answer_is_left_out(prefect_url: str, tmp_path: Path) -> None:
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        found = asked(open_store(tmp_path / "store"))
    assert found["quantmill_up", "server"] == 0
    assert found["quantmill_up", "store"] == 1
    assert not [key for key in found if key[0].startswith("quantmill_variant")]
    assert ("quantmill_published_versions",) in found


def test_two_scrapes_at_once_are_one_question(tmp_path: Path) -> None:
    asked = []

    class Slow(Exporter):
        def _server(self) -> list[Metric]:
            asked.append(time.monotonic())
            time.sleep(0.3)
            return [GaugeMetricFamily("slow", "Took its time.", value=1.0)]

    exporter = Slow(open_store(tmp_path / "store"))
    with ThreadPoolExecutor(2) as both:
        first, second = both.map(lambda _: [family.name for family in exporter.collect()], range(2))
    assert len(asked) == 1
    assert first == second
    assert sorted(first) == sorted({"quantmill_up", "slow", *first})


def test_the_command_prints_or_serves(prefect_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTMILL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PREFECT_API_URL", prefect_url)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = [sys.executable, "-m", "quantmill.cli", "metrics"]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert figures(printed.stdout)["quantmill_up", "server"] == 1, printed.stderr
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    process = subprocess.Popen([*command, "--port", str(port)])
    try:
        answer = None
        while answer is None and process.poll() is None:
            try:
                answer = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=60)
            except httpx.ConnectError:
                time.sleep(0.2)
        assert answer is not None
        assert figures(answer.text).keys() >= figures(printed.stdout).keys()
        refused = subprocess.run([*command, "--port", str(port)], capture_output=True, text=True, timeout=120)
    finally:
        process.kill()
        process.wait()
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert refused.stderr.startswith(f"error: --port: 127.0.0.1:{port}: ")
