"""The factory as a service: a real server, two pools with a process worker each, lines by the API.

The tests of this module follow each other on one server and one store: a test finds the results of earlier tests.
"""

import asyncio
import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.pools.pools import read_pools
from flows.pools.runs import check_pools
from quantmill.errors import RequestError
from quantmill.store.places import open_store
from tests import samples
from tests.processes import gone, memory_group
from tests.service import Embedded, Service

pytestmark = pytest.mark.slow

_MADE = ("bitsandbytes-nf4", "gptq-4bit-g64", "gguf-q8_0")


@pytest.fixture(scope="module")
def service(embedded: Embedded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service, with all that the embedded run made but the three variants themselves."""
    made = Service(tmp_path_factory.mktemp("service") / "it")
    try:
        embedded.share(made.home, *_MADE)
        made.start_server()
        with ThreadPoolExecutor() as both:
            made.boots = list(both.map(lambda _: made.quantmill("bootstrap"), range(2)))  # type: ignore[attr-defined]
        for pool in ("cpu", "gpu"):
            made.start_worker(pool)
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def hook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A webhook's address and what was posted there."""
    posted: list[dict[str, Any]] = []

    class Taker(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Taker) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/canary-4711", posted
        server.shutdown()


def ask(recipe: dict[str, Any], *types: str, model: str = "tiny", **publish: Any) -> dict[str, Any]:
    """Return the recipe with other GGUF types, which take seconds each."""
    return recipe | {"variants": [{"method": "gguf", "type": list(types)}], "publish": {"model": model, **publish}}


def summary_of(service: Service, model: str = "tiny") -> dict[str, Any]:
    return dict(json.loads((service.home / "reports" / model / "summary.json").read_text()))


def verdicts(service: Service, model: str = "tiny") -> dict[str, tuple[str, str]]:
    """Return variant -> status and the first reason."""
    rows = summary_of(service, model)["variants"]
    return {row["name"]: (row["status"], (row["reasons"] or [""])[0]) for row in rows}


def versions(service: Service, model: str) -> dict[str, int]:
    store = open_store(service.home / "store")
    return {name: len(store.versions(model, name)) for name in store.models().get(model, [])}


def variant_runs(service: Service, name: str) -> list[dict[str, Any]]:
    return [run for run in service.runs() if run["name"] == name]


def test_two_bootstraps_at_once_make_everything_once(service: Service) -> None:
    outputs = [made.stdout.splitlines() for made in service.boots]  # type: ignore[attr-defined]
    assert [made.returncode for made in service.boots] == [0, 0], [made.stderr for made in service.boots]  # type: ignore[attr-defined]
    first, second = sorted(outputs, key=lambda lines: sum("unchanged" in line for line in lines))
    assert {line.rpartition(": ")[2] for line in first} == {"created"}
    assert [line.replace("unchanged", "created") for line in second] == first
    assert "deployment variant/gpu: created" in first
    automations = service.call("POST", "/automations/filter", {})
    assert len(automations) == len({automation["name"] for automation in automations}) == 4, "watchdogs and triggers"


def test_what_the_lists_change_is_updated(
    service: Service, tmp_path: Path, hook: tuple[str, list[dict[str, Any]]]
) -> None:
    pools = service.folder / "pools.yaml"
    other = tmp_path / "pools.yaml"
    other.write_text(pools.read_text().replace("name: gpu", "name: gpu\n  slots: 7"))
    made = service.quantmill("bootstrap", "--pools", str(other), QUANTMILL_NOTIFY_URL=hook[0])
    changed = [line for line in made.stdout.splitlines() if not line.endswith("unchanged")]
    assert changed == ["queue gpu/variants: updated", "automation quantmill: line failed: created"], made.stderr
    assert "4711" not in made.stdout + json.dumps(service.call("POST", "/automations/filter", {}))
    again = service.quantmill("bootstrap", QUANTMILL_NOTIFY_URL=hook[0]).stdout.splitlines()
    assert [line for line in again if not line.endswith("unchanged")] == ["queue gpu/variants: updated"]


def test_a_server_that_does_not_answer_is_one_line(service: Service) -> None:
    nobody = service.quantmill("bootstrap", PREFECT_API_URL="http://127.0.0.1:9/api")
    assert nobody.returncode == 1
    assert nobody.stderr.startswith("error: PREFECT_API_URL: no Prefect server answers at http://127.0.0.1:9/api")
    assert nobody.stderr.count("\n") == 1


def test_variants_run_on_both_pools_and_are_those_of_the_embedded_run(service: Service, embedded: Embedded) -> None:
    run = service.run(service.trigger(embedded.recipe, prepared=True))
    run = service.wait(run["id"])
    assert run["state_name"] == "Completed", service.logs_of(run["id"])
    places = {
        child["name"]: (child["work_pool_name"], child["state_name"])
        for child in service.runs()
        if child["id"] != run["id"] and child["work_queue_name"] != "lines"  # where `watch` waits for its schedule
    }
    assert places == {
        "bitsandbytes-nf4": ("cpu", "Completed"),
        "gptq-4bit-g64": ("gpu", "Completed"),
        "gguf-q8_0": ("gpu", "Completed"),
    }
    there, here = summary_of(service), embedded.summary
    for name in ("name", "status", "artifact", "perplexity", "mean_kl", "size_bytes"):
        assert [row[name] for row in there["variants"]] == [row[name] for row in here["variants"]], name
    keys = [
        {path.name for path in (home / "store/stages/artifact").iterdir()} for home in (service.home, embedded.home)
    ]
    assert keys[0] == keys[1]
    left = {artifact["key"] for artifact in service.artifacts_of(run["id"])}
    assert left >= {"variants-tiny", "pareto-tiny", "report-tiny", "store-tiny"}
    (child,) = variant_runs(service, "gptq-4bit-g64")
    assert {"quantmill", "gptq", "safetensors", "tiny-llama"} <= set(child["tags"])
    assert any(artifact["type"] == "progress" for artifact in service.artifacts_of(child["id"]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "gpu-80"}, "pool gpu-80: the Prefect server has no such pool, or no deployment variant/gpu-80"),
        ({"queue": "varaints"}, "pool gpu: no work queue 'varaints'; it has default, variants"),
        (
            {"job_variables": {"gpu_count": 2}},
            "pool gpu: unknown job variable 'gpu_count'; its template takes command, env, ",
        ),
    ],
)
def test_what_the_server_does_not_know_is_refused(service: Service, change: dict[str, Any], words: str) -> None:
    pools = read_pools(service.list_pools("unknown-pools", [{"name": "gpu", "memory": "8GB"} | change]))
    with temporary_settings({PREFECT_API_URL: service.url}), pytest.raises(RequestError, match=re.escape(words)):
        asyncio.run(check_pools(pools))


def test_a_line_with_an_unknown_pool_fails_before_any_work_and_somebody_is_told(
    service: Service, embedded: Embedded, hook: tuple[str, list[dict[str, Any]]]
) -> None:
    pools = service.list_pools("unknown-pools", [{"name": "gpu-80", "memory": "8GB"}])
    before = (len(list(service.starts.iterdir())), len(service.runs()))
    line = service.wait(service.trigger(ask(embedded.recipe, "Q2_K"), QUANTMILL_POOLS=str(pools)))
    assert line["state_name"] == "Failed"
    assert "RequestError: pool gpu-80: the Prefect server has no such pool" in line["state"]["message"]
    assert (len(list(service.starts.iterdir())), len(service.runs())) == (before[0], before[1] + 1)
    deadline = time.monotonic() + 60
    while not hook[1] and time.monotonic() < deadline:
        time.sleep(0.2)
    (told,) = hook[1]
    assert told["flow_run"] == line["id"]
    assert "Failed: Flow run encountered an exception: RequestError: pool gpu-80" in told["text"]


@pytest.fixture(scope="module")
def orphan(service: Service, embedded: Embedded) -> UUID:
    """Return the run of a line whose variant's worker was killed, with all its processes.

    The heartbeat takes a while to notice this: other tests run meanwhile.
    """
    service.order("gguf-q4_0", "wait")
    line = service.trigger(ask(embedded.recipe, "Q4_0", model="orphan"))
    job = service.wait_for_start("artifact gguf-q4_0")
    (child,) = variant_runs(service, "gguf-q4_0")
    worker = service.processes["worker-gpu"]
    for pid in (worker.pid, service.process_of(child["id"])):
        os.kill(pid, signal.SIGKILL)
    worker.wait()
    assert gone(job), "no process is left behind"
    service.order("gguf-q4_0")
    service.start_worker("gpu", "worker-gpu-2")
    return line


@pytest.fixture(scope="module")
def silent(service: Service) -> UUID:
    """A run that began, and whose process died before its first sign of life."""
    deployment = service.call("GET", "/deployments/name/variant/cpu")["id"]
    body = {"parameters": {"job": samples.job("silent").model_dump(mode="json")}, "state": {"type": "PENDING"}}
    run = service.call("POST", f"/deployments/{deployment}/create_flow_run", body)["id"]
    service.call("POST", f"/flow_runs/{run}/set_state", {"state": {"type": "RUNNING"}})
    return UUID(run)


def test_a_killed_line_finds_its_variants_again(
    service: Service, embedded: Embedded, orphan: UUID, silent: UUID
) -> None:
    service.order("gguf-q5_0", "wait")
    recipe = ask(embedded.recipe, "Q5_0", model="again")
    first = service.trigger(recipe)
    service.wait_for_start("artifact gguf-q5_0")
    os.kill(service.process_of(first), signal.SIGKILL)
    died = service.wait(first)
    assert died["state_name"] == "Crashed"
    assert "-9" in died["state"]["message"], "with a cause"
    second = service.trigger(recipe)
    service.wait(second, states={"RUNNING"})
    time.sleep(5)
    service.order("gguf-q5_0")
    assert service.wait(second)["state_name"] == "Completed"
    assert len(variant_runs(service, "gguf-q5_0")) == 1
    assert service.started("gguf-q5_0") == ["artifact", "report"]
    assert versions(service, "again") == {"gguf-q5_0": 1}


def test_a_cancelled_line_cancels_its_variants(service: Service, embedded: Embedded) -> None:
    service.order("gguf-q6_k", "wait")
    line = service.trigger(ask(embedded.recipe, "Q6_K", model="cancelled"))
    job = service.wait_for_start("artifact gguf-q6_k")
    (child,) = variant_runs(service, "gguf-q6_k")
    processes = [job, service.process_of(child["id"]), service.process_of(line)]
    service.call("POST", f"/flow_runs/{line}/set_state", {"state": {"type": "CANCELLING"}})
    assert service.wait(line)["state_name"] == "Cancelled"
    assert service.wait(child["id"])["state_name"] == "Cancelled"
    assert all(gone(pid, 30) for pid in processes)
    service.order("gguf-q6_k")
    assert versions(service, "cancelled") == {}


def test_what_is_tried_again_depends_on_how_it_ended(service: Service, embedded: Embedded) -> None:
    """One line has a killed job, a failing engine, and a job that needs more memory than its pool has."""
    with memory_group(30 * 10**6) as group:
        small = service.interpreter("starved", f'grep -q q4_1 "$3" && echo $$ > {group}')
        pools = [
            {"name": "cpu", "memory": "16GB", "threads": 1},
            {"name": "gpu", "memory": "8GB", "threads": 1, "methods": ["gguf"], "job_variables": {"env": {"QUANTMILL_PYTHON": str(small)}}},
        ]  # fmt: skip
        service.order("gguf-q5_1", "wait")
        service.order("gguf-q3_k_m", "fail")
        recipe = ask(embedded.recipe, "Q5_1", "Q3_K_M", "Q4_1", model="tried")
        line = service.trigger(recipe, QUANTMILL_POOLS=str(service.list_pools("starved-pools", pools)))
        job = service.wait_for_start("artifact gguf-q5_1")
        os.kill(job, signal.SIGKILL)
        service.order("gguf-q5_1")
        assert service.wait(line)["state_name"] == "Completed", service.logs_of(line)
        service.order("gguf-q3_k_m")
    ends = {
        name: [(run["work_pool_name"], run["state_name"]) for run in variant_runs(service, name)]
        for name in ("gguf-q5_1", "gguf-q3_k_m", "gguf-q4_1")
    }
    assert ends == {
        "gguf-q5_1": [("gpu", "Killed"), ("gpu", "Completed")],
        "gguf-q3_k_m": [("gpu", "EngineError")],
        "gguf-q4_1": [("gpu", "OutOfMemory"), ("cpu", "Completed")],
    }
    marks = {row["name"]: row["marks"] for row in summary_of(service, "tried")["variants"]}
    assert marks["gguf-q4_1"][-1] == "OutOfMemory on gpu"
    assert marks["gguf-q5_1"][-1] == "Killed on gpu"
    found = verdicts(service, "tried")
    assert found["gguf-q3_k_m"][0] == "failed"
    assert "code 7" in found["gguf-q3_k_m"][1]
    assert versions(service, "tried") == {"gguf-q4_1": 1, "gguf-q5_1": 1}


def test_twenty_triggers_make_one_version(service: Service, embedded: Embedded) -> None:
    recipe = ask(embedded.recipe, "Q4_K_M", model="twenty")
    lines = [service.trigger(recipe) for _ in range(20)]
    assert [service.wait(line)["state_name"] for line in lines] == ["Completed"] * 20
    assert service.started("gguf-q4_k_m") == ["artifact", "report"]
    assert versions(service, "twenty") == {"gguf-q4_k_m": 1}


def test_a_server_that_is_killed_costs_no_work(service: Service, embedded: Embedded) -> None:
    service.order("gguf-q4_k_s", "wait")
    line = service.trigger(ask(embedded.recipe, "Q4_K_S", model="server"))
    service.wait_for_start("artifact gguf-q4_k_s")
    server = service.processes["server"]
    os.kill(server.pid, signal.SIGKILL)
    server.wait()
    service.order("gguf-q4_k_s")
    service.wait_for_start("report gguf-q4_k_s")  # work goes on without it
    service.start_server()
    assert service.wait(line)["state_name"] == "Completed", service.logs_of(line)
    assert service.started("gguf-q4_k_s") == ["artifact", "report"]
    assert versions(service, "server") == {"gguf-q4_k_s": 1}


@pytest.mark.parametrize(("publish", "status"), [(False, "rejected"), (True, "accepted")])
def test_a_line_waits_for_an_approval(service: Service, embedded: Embedded, publish: bool, status: str) -> None:
    line = service.trigger(ask(embedded.recipe, "Q8_0", model="asked", approval=True))
    service.wait(line, states={"Suspended"})
    assert versions(service, "asked") == {}
    answer = {"run_input": {"publish": publish, "reason": "waits for the lawyers"}}
    assert service.call("POST", f"/flow_runs/{line}/resume", answer)["status"] == "ACCEPT"
    assert service.wait(line)["state_name"] == "Completed"
    assert verdicts(service, "asked")["gguf-q8_0"][0] == status
    assert versions(service, "asked") == ({"gguf-q8_0": 1} if publish else {})
    assert publish or verdicts(service, "asked")["gguf-q8_0"][1] == "held back at the approval: waits for the lawyers"


def test_a_lost_worker_s_variant_is_made_by_another(service: Service, orphan: UUID) -> None:
    assert service.wait(orphan)["state_name"] == "Completed", service.logs_of(orphan)
    first, second = variant_runs(service, "gguf-q4_0")
    assert (first["state_name"], second["state_name"]) == ("Crashed", "Completed")
    assert "no heartbeat" in first["state"]["message"]
    assert versions(service, "orphan") == {"gguf-q4_0": 1}
    assert "Crashed on gpu; tried again on gpu" in service.logs_of(orphan)


def test_a_run_that_never_gave_a_sign_of_life_is_ended(service: Service, silent: UUID) -> None:
    assert service.wait(silent)["state_name"] == "Crashed"
    assert "no heartbeat" in service.run(silent)["state"]["message"]


def test_nothing_is_left_behind(service: Service) -> None:
    """No engine process, no flow run's process, no scratch folder."""
    deadline = time.monotonic() + 30
    idle = 3  # the server and two workers
    while len(service.pids()) > idle and time.monotonic() < deadline:
        time.sleep(0.5)
    assert len(service.pids()) == idle, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in service.pids()]
