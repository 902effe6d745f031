"""After a job ran out of memory: what is given up, in which order, and that the report says so."""

import stat
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quantmill.settings import Settings
from quantmill.variants import VariantRequest, VariantSpec
from tasks import frugal, summarize
from tasks.sandbox import Sandbox
from tests import samples
from tests.quantizers.bench import QUICK, Bench


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
    job: Any = SimpleNamespace(snapshot=SimpleNamespace(source_types={}))
    marks = summarize._marks(job, outcome.model_copy(update={"artifact": starved}), {})
    assert marks == ("out of memory: batch_size 1 in place of 8",)


@pytest.mark.slow
def test_a_starved_job_is_made_with_a_smaller_batch(tiny: Path, tmp_path: Path) -> None:
    """The interpreter gives AutoRound at batch size 8 less address space than it needs, as `ulimit -v` does."""
    starving = tmp_path / "python"
    starving.write_text(
        f'#!/bin/sh\nif grep -q \'"batch_size":8\' "$3"; then ulimit -v 1500000; fi\nexec {sys.executable} "$@"\n'
    )
    starving.chmod(starving.stat().st_mode | stat.S_IXUSR)
    bench = Bench(tmp_path / "home", tiny, [QUICK])
    bench.sandbox = Sandbox(Settings(home=tmp_path / "home", python=starving))
    (job,) = bench.jobs.values()
    artifact = bench.make(job)
    assert artifact.given_up == "batch_size 1 in place of 8"
    assert artifact.spec == job.spec, "what was asked for"
