"""After a job ran out of memory: what is given up, in which order, and that the report says so."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quantmill.errors import OutOfMemory
from quantmill.recipe.recipe import VariantSpec
from quantmill.recipe.variant_request import VariantRequest
from quantmill.settings import Settings
from tasks.marks import marks_of
from tasks.quantize import frugal
from tasks.quantize.job import Make
from tasks.sandbox import JobArguments, JobResult, Sandbox
from tests import samples
from tests.tasks.quantize.bench import QUICK, Bench


def spec(**request: object) -> VariantSpec:
    return next(VariantRequest.model_validate(request).expand())


@pytest.mark.parametrize(
    ("request_", "device", "words"),
    [
        ({"method": "autoround"}, "cpu", ["", "batch_size 1 in place of 8"]),
        ({"method": "autoround", "batch_size": 1}, "cpu", [""]),
        ({"method": "gptq"}, "cuda", [""]),
        ({"method": "hqq"}, "cuda:1", ["", "quantized on the processor"]),
        ({"method": "bitsandbytes", "type": "nf4"}, "cpu", [""]),
    ],
)
def test_what_is_given_up(request_: dict[str, object], device: str, words: list[str]) -> None:
    attempts = list(frugal.attempts(spec(**request_), device))
    assert [attempt.words for attempt in attempts] == words
    assert attempts[0] == ("", spec(**request_), device), "first as it was asked for"


def test_a_mark_says_so() -> None:
    outcome = samples.outcome("v")
    starved = outcome.artifact.model_copy(update={"given_up": "batch_size 1 in place of 8"})  # type: ignore[union-attr]
    job: Any = SimpleNamespace(snapshot=SimpleNamespace(source_types={}), checkpoint=None)
    marks = marks_of(job, outcome.model_copy(update={"artifact": starved}), {})
    assert marks == ("out of memory: batch_size 1 in place of 8",)


class Starving(Sandbox):
    """A machine on which AutoRound at batch size 8 is out of memory; all else is real."""

    @contextmanager
    def run(
        self,
        arguments: JobArguments,
        name: str,
        packages: tuple[str, ...] = (),
        threads: int = 0,
        environment: str = "",
    ) -> Iterator[JobResult]:
        if isinstance(arguments, Make) and arguments.spec.batch_size == 8:
            raise OutOfMemory(f"{arguments.kind} was killed holding 30.0 GB of 32.0 GB")
        with super().run(arguments, name, packages, threads, environment) as result:
            yield result


@pytest.mark.slow
def test_a_starved_job_is_made_with_a_smaller_batch(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(tmp_path / "home", tiny, [QUICK])
    bench.sandbox = Starving(Settings(home=tmp_path / "home"))
    (job,) = bench.jobs.values()
    with caplog.at_level("WARNING", logger="quantmill.progress"):
        artifact = bench.make(job)
    assert artifact.given_up == "batch_size 1 in place of 8"
    assert artifact.spec == job.spec, "what was asked for"
    assert "out of memory; once more with batch_size 1" in caplog.text
