"""A home of commit f5273e7, opened by today's code: it answers as it did then. See frozen/README.md.

The tests use the lock, the number of threads and the settings that made the home, so the keys are equal. `as_then` also sets the
facts that depend on the processor, so the test is the same on every processor.
"""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from flows import jobs, recall
from quantmill.machine.classes import MachineClass
from quantmill.recipe.recipe_file import read_recipe
from quantmill.records.report import Outcome
from quantmill.settings import load_settings
from quantmill.store.places import open_store
from quantmill.store.store import Store
from tasks import installed as engines
from tasks import processor
from tasks.model import config_forms
from tasks.quantize import quantize
from tasks.sandbox.sandbox import ClosedSandbox
from tasks.source import download
from tasks.text import calibrate
from tests.frozen import answers

FROZEN = Path(__file__).resolve().parents[1] / "frozen"
EXPECTED: dict[str, Any] = json.loads((FROZEN / "expected.json").read_text(encoding="utf-8"))

_ARITHMETIC = "keys hold the arithmetic that the engine is told, and the processor's class: their bytes depend on both"
MADE_AGAIN: dict[tuple[str, str], str] = {
    # (stage, variant or `*`) -> why a rerun makes it again. Stages: snapshot, tokens, conversion, artifact, dress, report.
    # `dress`: no engine works, the same weights get other files beside them.
    # A report that is made again needs a new key for all (`*`): name the number that the keys got and the changelog's line.
    (stage, variant): _ARITHMETIC
    for stage in ("artifact", "report")
    for variant in ("gptq-4bit-g32", "awq-4bit-g32", "autoround-4bit-g32-i2")
} | {("dress", "*"): "config.json names RoPE and the weights' type as transformers 4 does too"}
_RUNTIMES = "vLLM is promised no more: it was not seen to load them"
ANSWERED_OTHERWISE: dict[str, str] = {
    # Name of an answer in expected.json, and after a colon the place in it -> why today's answer is another on purpose.
    # Fields that are added need no entry.
    f"{answer}variants.{place}.runtimes": _RUNTIMES
    for answer in ("list: models.0.", "show frozen: ")
    for place in range(8)
}


@pytest.fixture
def as_then(tmp_path: Path) -> Iterator[Path]:
    """The frozen folder as the working directory, under the lock, the threads and the settings of then."""
    with tarfile.open(FROZEN / "home.tar.xz") as tar:
        tar.extractall(tmp_path, filter="data")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in answers.SETTINGS.items():
            patch.setenv(name, value)
        for name in ("QUANTMILL_STORE", "QUANTMILL_POOLS", "QUANTMILL_SIGNING_KEY", "QUANTMILL_PYTHON"):
            patch.delenv(name, raising=False)
        patch.setattr(processor, "of_this_machine", lambda: "avx2")  # as frozen/README.md says of the one of then
        patch.setattr(engines, "LOCK", FROZEN / "requirements.lock")
        patch.setattr(jobs, "class_of", lambda _, threads, told: MachineClass("AMD EPYC (2 cores)", threads, told))
        patch.chdir(tmp_path)
        engines.pins.cache_clear()
        yield tmp_path
    engines.pins.cache_clear()


class Planned(NamedTuple):
    """The jobs of a frozen recipe, and what they are looked up in."""

    plan: jobs.Plan
    store: Store
    closed: ClosedSandbox


def planned(name: str) -> Planned:
    recipe, settings = read_recipe(Path(f"{name}.json")), load_settings()
    store, closed = open_store("home/store", 36500), ClosedSandbox(settings)
    origin = download.inspect_source(recipe.model, closed.home, fetch=False)
    snapshot = download.fetch_snapshot(origin, store, closed)
    tokens = calibrate.build_token_sets(recipe, snapshot, store, closed, jobs.uses_calibration(recipe))
    return Planned(jobs.make_plan(recipe, snapshot, *tokens, settings.engine_threads, {}), store, closed)


def missing(name: str) -> set[tuple[str, str]]:
    """Return (stage, variant) of what a rerun of a frozen recipe would make again."""
    plan, store, _ = planned(name)
    found = set() if store.look_up("conversion", plan.needed("conversion")) else {("conversion", "*")}
    for job in (plan.baseline, *plan.others):
        artifact, body = quantize.find_artifact(job, store), quantize.find_body(job, store)
        if artifact is None:
            found.add(("dress" if body else "artifact", job.name))
        if body is None or recall.find_report(job, body, store) is None:
            found.add(("report", job.name))
    return found


def made_again(stage: str, variant: str) -> bool:
    return bool({(stage, variant), (stage, "*")} & MADE_AGAIN.keys())


@pytest.mark.parametrize("name", ["first", "second"])
def test_fault_31_nothing_is_made_again_but_what_is_listed(name: str, as_then: Path) -> None:
    """Today's keys find each stage; if no stage is missing, the whole command answers without work."""
    found = missing(name)
    unexpected = {each for each in found if not made_again(*each)}
    assert not unexpected, "made again: either the change of keys was not meant, or it belongs into MADE_AGAIN"
    said = recall.recall_run(read_recipe(Path(f"{name}.json")), load_settings())
    if found:
        assert said is None, f"made again, and yet the run is recalled: {found}"
    else:
        assert said is not None
        same(f"compress {name}", answers.plain(said.model_dump(mode="json")))
        assert {row.cached for row in said.variants} == {True}


def test_fault_31_stored_artifacts_get_what_a_release_adds_and_no_engine_works(as_then: Path) -> None:
    """The closed sandbox starts no process: only the config is new, and measurements are found."""
    plan, store, closed = planned("first")
    for job in (plan.baseline, *plan.others):
        if (body := quantize.find_body(job, store)) is None:
            continue
        dressed = quantize.make_artifact(job, store, closed)
        assert recall.recall(job, store) == Outcome(
            name=job.name, artifact=dressed, report=recall.find_report(job, body, store), cached=True
        )
        changed = {file.path for file in {*dressed.files} ^ {*body.files}}
        before, after = (config_forms.read_stored(artifact, store) for artifact in (body, dressed))
        assert changed == {"config.json"}
        assert "rope_theta" not in before
        assert after == before | {
            "rope_theta": before["rope_parameters"]["rope_theta"],
            "rope_scaling": None,
            "torch_dtype": before["dtype"],
        }


def test_fault_31_what_the_factory_keeps_is_read(as_then: Path) -> None:
    """Landings, the outbox, and a version that leaves the store."""
    for name, said in answers.producing().items():
        same(name, said)


def test_fault_31_who_reads_the_store_is_answered_as_before(as_then: Path) -> None:
    """In the order of then: the channel is moved at the end."""
    said = answers.consuming()
    assert said.keys() <= EXPECTED.keys()
    for name, answer in said.items():
        same(name, answer)


def same(name: str, said: Any) -> None:
    """Compare an answer with that of then; fields may have been added."""
    wrong = sorted(found for found in differences(name, said, EXPECTED[name]) if found not in ANSWERED_OTHERWISE)
    assert not wrong, wrong


def differences(place: str, said: Any, expected: Any) -> Iterator[str]:
    """Yield where an answer is another than then, as `list: models.0.variants.2.bits`."""
    step = "." if ": " in place else ": "
    if isinstance(expected, dict) and isinstance(said, dict):
        if place.startswith("files of ") and said.keys() - expected.keys():
            yield place
        for name, value in expected.items():
            yield from differences(f"{place}{step}{name}", said.get(name, "missing"), value)
    elif isinstance(expected, list) and isinstance(said, list) and len(said) == len(expected):
        for at, (one, other) in enumerate(zip(said, expected, strict=True)):
            yield from differences(f"{place}{step}{at}", one, other)
    elif said != expected:
        yield place
