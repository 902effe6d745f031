"""Speed within a budget, by a clock that the test turns; a run on a busy machine, through the command."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy
import pytest
import yaml
from tokenizers import Tokenizer, models

from quantmill.files import keys
from quantmill.records.artifact import StageResult
from quantmill.records.report import Speed, Timing
from quantmill.records.selection import BUSY
from quantmill.store.places import open_store
from tasks import gibberish
from tasks.evaluate import evaluate, speed
from tasks.judge import gate
from tasks.runtimes.protocol import Machine
from tests import samples, small_line
from tests.line import ROOT, started
from tests.samples import outcome
from tests.told_readings import Told


class Slow:
    """A made-up runtime and model: each token takes time on the clock, and others use the machine."""

    compute_dtype, kernel = "float32", "made up"

    def __init__(self, readings: Told, token_s: float, read_s: float = 0.0, others: float = 0.0) -> None:
        self.readings, self.token_s, self.read_s, self.others, self.made = readings, token_s, read_s, others, 0

    def load(self, *_: Any, **__: Any) -> "Slow":
        self._work(1000.0)
        return self

    def start(self, ids: Any) -> int:
        self._work(self.read_s * len(ids))
        return self.step(0)

    def step(self, _: int) -> int:
        self._work(self.token_s)
        self.made += 1
        return self.made % 50

    def text(self, tokens: list[int]) -> str:
        return str(tokens)

    def close(self) -> None:
        return

    def _work(self, seconds: float) -> None:
        self.readings.now += seconds
        self.readings.own += seconds
        self.readings.others += seconds * self.others


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    vocabulary = {"x": 0, "[UNK]": 1}
    Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def measured(folder: Path, model: Slow) -> tuple[Speed, Timing]:
    windows, machine = numpy.zeros((1, 64), numpy.int32), Machine("cpu", 2, "a processor")
    made = speed.measure_speed(model, folder, windows, machine, 200, lambda *_: None, model.readings)
    return Speed.model_validate(made["speed"]), Timing.model_validate(made["timing"])


@pytest.mark.parametrize(
    ("token_s", "read_s", "tokens", "repeats"),
    [
        (0.003, 0.0, 32, 4),
        (0.1, 0.001, 32, 3),
        (0.4, 0.0, 31, 1),
        (1.0, 0.0, 11, 1),
        (1.0, 0.5, 2, 1),
        (30.0, 0.0, 2, 1),
    ],
)
def test_as_many_tokens_as_fit(folder: Path, token_s: float, read_s: float, tokens: int, repeats: int) -> None:
    made, timing = measured(folder, Slow(Told(), token_s, read_s))
    assert made.decode_tokens_per_s == pytest.approx(1 / token_s)
    assert (abs(made.generated_tokens - tokens) <= 4, made.repeats) == (True, repeats)
    assert made.load_s == pytest.approx(1000)
    if token_s < 10:
        assert timing.took_s <= timing.budget_s + token_s + read_s * 12, "one token too late at most"
    assert timing.decode_range == (pytest.approx(1 / token_s),) * 2


@pytest.mark.parametrize(("others", "busy"), [(0.0, False), (0.09, False), (0.11, True)])
def test_work_beside_the_measurement_is_seen(folder: Path, others: float, busy: bool) -> None:
    _, timing = measured(folder, Slow(Told(), 0.1, others=others))
    assert timing.busy is busy, "of two cores' wall time"
    assert timing.others == pytest.approx(others / 2, abs=0.01)


def test_a_short_sample_that_repeats_one_token_is_not_gibberish() -> None:
    from quantmill.recipe.recipe import GatePolicy

    base, policy = outcome("baseline", size=1000, perplexity=16.0), GatePolicy(max_perplexity_ratio=2, max_mean_kl=1)
    for tokens, status in ((16, "rejected"), (15, "accepted")):
        made = outcome("v", distinct=1)
        assert made.report is not None
        short = made.report.speed.model_copy(update={"generated_tokens": tokens})
        report = made.report.model_copy(update={"speed": short})
        assert gate.decide(made.model_copy(update={"report": report}), base, policy).status == status
        assert gibberish.too_short(report) is (tokens < 16)


def test_busy_is_a_mark_that_where_knows() -> None:
    from quantmill.client.where import parse

    assert [term.value for term in parse("mark!=busy")] == [BUSY]


MEASURES = small_line.COPIES.replace(
    """elif kind == "report":
    time.sleep(120)
""",
    """elif kind in ("report", "speed"):
    measure()
    made = json.loads((folder / "result.json").read_text())["value"]
    others = float(Path(os.environ["OTHERS"]).read_text())
    timing = dict(others=others, busy_limit=told["busy_limit"], budget_s=told["budget_s"], took_s=1.0)
    timing |= dict(prefill_range=[90.0, 110.0], decode_range=[9.0, 11.0])
    made |= dict(timing=timing, sample=f"beside {others}")
    of_speed = ("speed", "timing", "sample", "sample_distinct_tokens", "generations")
    leave(**made if kind == "report" else dict((name, made[name]) for name in of_speed))
""",
)
"""Jobs that measure what the test says: how much of the machine others had stands in a file."""


class Factory:
    """A recipe, and the command on it."""

    def __init__(self, place: Path, prefect_url: str, database: Path) -> None:
        self.place, self.others, self.starts = place, place / "others", place / "starts"
        self.starts.mkdir()
        self.recipe: dict[str, Any] = small_line.recipe(place / "source")
        self.recipe |= {"gates": {"max_perplexity_ratio": 9, "max_mean_kl": 9}}
        self._environment = {
            "QUANTMILL_HOME": str(place / "home"),
            "QUANTMILL_PYTHON": str(small_line.interpreter(place, self.starts, MEASURES)),
            "QUANTMILL_MLFLOW_URI": f"sqlite:///{shutil.copyfile(database, place / 'mlflow.db')}",
            "PREFECT_API_URL": prefect_url,
            "TMPDIR": str(place),  # its lock is of no other run
            "OTHERS": str(self.others),
            "PYTHONPATH": str(ROOT),
        }

    def run(self, *arguments: str, others: float, limit: str = "0.05") -> tuple[Any, list[str]]:
        """Return the summary and the jobs that were started, but for the model's."""
        for path in self.starts.iterdir():
            path.unlink()
        self.others.write_text(str(others))
        (self.place / "recipe.yaml").write_text(yaml.safe_dump(self.recipe))
        environment = self._environment | {"QUANTMILL_BUSY_SHARE": limit}
        done = subprocess.run(
            [sys.executable, "-m", "quantmill.cli", "compress", "recipe.yaml", "--json", "run.json", *arguments],
            env=os.environ | environment,
            cwd=self.place,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        made = json.loads((self.place / "run.json").read_text())
        return made, [job for job in started(self.starts) if not job.startswith("snapshot")]


def test_a_busy_machine_s_speed_is_no_pick_until_it_is_measured_again(
    tmp_path: Path, prefect_url: str, empty_mlflow: Path
) -> None:
    factory = Factory(tmp_path, prefect_url, empty_mlflow)
    first, jobs = factory.run(others=0.5)
    (row,) = first["variants"]
    assert (row["status"], row["marks"][-1], row["others"]) == ("accepted", BUSY, 0.5)
    assert set(first["picks"]) == {"quality", "size"}
    names = ["baseline-bf16", row["name"]]
    assert jobs == [f"artifact {name}" for name in names] + [f"report {name}" for name in names]
    assert factory.run(others=0.0)[1] == [], "nothing is missing: nothing is looked at"

    factory.recipe["variants"].append({"method": "bitsandbytes", "type": ["nf4"]})
    second, jobs = factory.run(others=0.0, limit="1")  # with this limit the machine counts as quiet
    assert [job for job in jobs if names[0] in job or names[1] in job] == [f"speed {name}" for name in names]
    assert not [row for row in second["variants"] if BUSY in row["marks"]]
    assert "speed" in second["picks"]
    assert second["variants"][0]["decode_range"] == [9.0, 11.0]
    store = open_store(tmp_path / "home" / "store")
    (record,) = store.records("small", row["name"], second["variants"][0]["manifest"])
    assert (record.kind, record.value["busy"], record.value["decode_range"]) == ("speed", False, [9.0, 11.0])

    third, jobs = factory.run("--measure-again", others=0.9)
    assert [job.split()[0] for job in jobs] == ["speed"] * 3, "nothing is made or scored again"
    assert third["picks"] == second["picks"]
    assert [row["marks"] for row in third["variants"]] == [row["marks"] for row in second["variants"]], (
        "quiet ones stay"
    )


def test_scores_count_on_every_machine_and_a_speed_on_those_of_its_class(tmp_path: Path) -> None:
    """An old record has score and speed in one: the speed counts only for the same hardware and threads."""
    store, artifact, made = open_store(tmp_path), samples.artifact(), samples.report("v")
    job = samples.job("v").model_copy(update={"hardware": made.speed.hardware, "threads": made.speed.threads})

    def record(stage: str, of: str, value: Any) -> None:
        key = keys.stage_key(stage, job=of, artifact=artifact.made_digest)
        store.record(StageResult(stage=stage, key=key, value=value, made_at=time.time()))

    assert evaluate.find_report(job, artifact, store) is None
    record("report", job.report_key, made.model_dump(mode="json"))
    assert evaluate.find_report(job, artifact, store) == made
    faster = job.model_copy(update={"threads": 64, "speed_key": "of 64 threads"})
    for other in (faster, job.model_copy(update={"hardware": "another processor"})):
        assert evaluate.find_report(other, artifact, store) is None
    assert evaluate.find_report(job.model_copy(update={"hardware": ""}), artifact, store) == made, "a pool's: not known"
    speed_there = made.speed.model_copy(update={"threads": 64, "decode_tokens_per_s": 99.0})
    record("speed", faster.speed_key, {"speed": speed_there.model_dump(), "sample": "faster"})
    found = evaluate.find_report(faster, artifact, store)
    assert found is not None
    assert (found.speed, found.sample, found.quality) == (speed_there, "faster", made.quality)
    assert evaluate.find_report(job, artifact, store) == made
