"""A model that is dropped into a watched folder is published, once.

The tests use a real server, a worker, the schedule and the trigger.
"""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from quantmill.recipe.recipe_file import parse_recipe
from quantmill.records.manifest import Manifest
from quantmill.store.places import open_store
from tasks.landing import landings
from tasks.landing.landings import Landing
from tests.line import started
from tests.model_folders import model_folder
from tests.published import measured_beside
from tests.service import Service

pytestmark = pytest.mark.slow
POOLS = [{"name": "cpu", "memory": "8GB", "slots": 2}]
RECIPE: dict[str, Any] = {
    "model": {"source": "./any"},
    "evaluation": {"samples": 2, "sequence_length": 129, "seed": 1},
    "variants": [{"method": "hqq", "bits": 8}],
    "gates": {"max_perplexity_ratio": 1.5, "max_mean_kl": 0.5},
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("watch")
    made = Service(
        folder / "service",
        POOLS,
        QUANTMILL_POOLS="",  # variants run where the line runs: this is not about pools
        QUANTMILL_WATCHLIST=str(folder / "watchlist.yaml"),
        PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS="5",
    )
    (folder / "landing").mkdir()
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    entry = {"source": "landing/*", "recipe": "recipe.yaml", "quiet_s": 2}
    (folder / "watchlist.yaml").write_text(yaml.safe_dump({"watch": [entry]}))
    try:
        made.start_server()
        done = made.quantmill("bootstrap", "--pools", str(made.folder / "pools.yaml"))
        assert done.returncode == 0, done.stdout + done.stderr
        watch = made.call("GET", "/deployments/name/watch/watch")["id"]
        often = {"schedule": {"interval": 20, "anchor_date": "2026-01-01T00:00:00Z"}, "active": True}
        made.call("POST", f"/deployments/{watch}/schedules", [often])
        for automation in made.call("POST", "/automations/filter", {}):
            if automation["name"].startswith("quantmill: "):  # a watchdog: a busy machine misses its heartbeats
                made.call("PATCH", f"/automations/{automation['id']}", {"enabled": False})
        made.start_worker("cpu")
        yield made
    finally:
        made.stop()


def landing_of(service: Service) -> Path:
    return service.folder.parent / "landing"


def lines(service: Service, model: Path) -> list[dict[str, Any]]:
    """Return the runs of `compress` for a model, oldest first."""
    runs = service.runs("compress")
    return [run for run in runs if run["parameters"]["recipe"]["model"]["source"] == str(model)]


def until(found: Callable[[], Any], service: Service, timeout_s: float = 300.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if what := found():
            return what
        time.sleep(1)
    raise AssertionError([(run["name"], run["state"]) for run in service.runs()] + [service.log("worker-cpu")])


def look(service: Service) -> None:
    """Return after two more looks by the schedule: the first may have begun before."""

    def done() -> int:
        return sum(run["state_type"] == "COMPLETED" for run in service.runs("watch"))

    before = done()
    until(lambda: done() >= before + 2, service)


def published(service: Service, model: str) -> list[Manifest]:
    store = open_store(service.home / "store")
    return [store.manifest(version.manifest) for version in store.versions(model, "hqq-8bit-g64")]


def test_a_dropped_folder_is_published_once_and_a_new_template_without_quantizing(
    service: Service, trained: Path
) -> None:
    model = landing_of(service) / "tiny"
    shutil.copytree(trained, model)
    (run,) = until(lambda: lines(service, model), service)
    ended = service.wait(run["id"], 900)
    assert ended["state_type"] == "COMPLETED", (ended["state"], service.logs_of(run["id"]))
    (first,) = published(service, "tiny")
    assert any(job.startswith("artifact") for job in started(service.starts))

    shutil.rmtree(model)
    shutil.copytree(trained, model)
    look(service)
    assert len(lines(service, model)) == 1, "the same bytes were dropped there again"

    for path in service.starts.iterdir():
        path.unlink()
    (model / "chat_template.jinja").write_text("{{- 'Be brief. ' }}" + (model / "chat_template.jinja").read_text())
    run = until(lambda: lines(service, model)[1:], service)[0]
    ended = service.wait(run["id"], 900)
    assert ended["state_type"] == "COMPLETED", (ended["state"], service.logs_of(run["id"]))
    assert started(service.starts) == ["dress baseline-bf16", "dress hqq-8bit-g64", "snapshot folder"]
    before, second = published(service, "tiny")
    assert before == first
    changed = set(second.files) ^ set(first.files)
    assert {file.path for file in changed} == {"chat_template.jinja", "README.md"}, "the card names the revision"
    assert second.evaluation == measured_beside(first, second), "nothing was measured again"


def test_of_watchers_at_once_one_starts_the_run(service: Service) -> None:
    model = model_folder(landing_of(service) / "raced")  # looks like a model; its run ends at once
    time.sleep(2.5)
    command = [sys.executable, "-m", "quantmill.cli", "landed"]
    watchers = [subprocess.Popen(command, env=service.environment, cwd=service.folder) for _ in range(2)]
    assert [watcher.wait(timeout=200) for watcher in watchers] == [0, 0]
    (run,) = until(lambda: lines(service, model), service)
    assert service.wait(run["id"])["state_type"] == "FAILED"
    look(service)
    assert len(lines(service, model)) == 1, "what failed is somebody's to look at, not to start again and again"

    event = {
        "id": str(uuid4()),
        "event": "quantmill.base-model.landed",
        "resource": {"prefect.resource.id": "quantmill.base-model.again"},
        "payload": run["parameters"],
        "occurred": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    service.call("POST", "/events", [event])  # the same once more: its run finds that another one took the landing
    second = until(lambda: lines(service, model)[1:], service)[0]
    assert service.wait(second["id"])["state_name"] == "Duplicate"


def test_an_announcement_that_got_lost_is_made_again(service: Service) -> None:
    model = landing_of(service) / "gone"
    recipe = parse_recipe(RECIPE | {"model": {"source": str(model)}}).model_dump(mode="json", exclude_defaults=True)
    claimed = Landing(model=str(model), revision="1", changed="new", files={}, recipe=recipe, seen_at=time.time() - 300)
    assert landings.claim(open_store(service.home / "store"), claimed)  # and then the watcher died
    run = until(lambda: lines(service, model), service)[0]
    assert run["parameters"]["landing"] == claimed.key
    assert "no such file or folder" in service.wait(run["id"])["state"]["message"]
    look(service)
    ends = [service.wait(one["id"])["state_name"] for one in lines(service, model)]
    assert ends == ["Failed"] + ["Duplicate"] * (len(ends) - 1), "announced twice where the first run was slow to come"


def test_other_systems_say_that_a_model_is_there(service: Service) -> None:
    root = Path(__file__).resolve().parents[3]
    text = (root / "docs" / "operations.md").read_text()
    command = next(block for block in text.split("\n\n") if "base-model.announced" in block and "curl" in block)
    command = "\n".join(line.strip() for line in command.splitlines())
    environment = service.environment | {"SOURCE": "hf://nobody/watches-this"}

    def answers() -> list[dict[str, Any]]:
        return [run for run in service.runs("watch") if run["parameters"].get("source") == environment["SOURCE"]]

    def failed() -> dict[str, Any] | None:
        if all(run["state_type"] == "CANCELLED" for run in answers()):  # or a look was at work just then
            subprocess.run(["bash", "-c", command], env=environment, check=True, timeout=60)
            until(answers, service)
        return next((run for run in answers() if run["state_type"] == "FAILED"), None)

    assert "no entry of" in until(failed, service)["state"]["message"]


def test_a_look_by_hand_says_what_would_start(service: Service) -> None:
    model_folder(landing_of(service) / "seen", {"architectures": ["BertModel"]})
    time.sleep(2.5)
    shown = service.quantmill("landed", "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"/landing/seen: not taken: .*BertModel", shown.stdout)
