"""Checks the contract of every method (`contract.py`), with the same tests for all ways of quantizing."""

from pathlib import Path

import pytest

from quantmill.recipe.methods import METHODS
from tests.tasks.quantize import contract
from tests.tasks.quantize.bench import VARIANTS, Bench

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("index", range(len(VARIANTS)), ids=lambda n: "-".join(map(str, VARIANTS[n][0].values())))
def test_contract(bench: Bench, index: int) -> None:
    contract.fulfilled(bench, list(bench.jobs.values())[index], VARIANTS[index][1])


def test_what_was_made_opens_and_generates(bench: Bench, tmp_path: Path) -> None:
    made = contract.generated(bench, bench.jobs.values(), tmp_path)
    assert list(made) == list(bench.jobs)
    assert all(len(tokens) == 5 and text for tokens, text in made.values())


def test_every_method_is_here() -> None:
    assert {request["method"] for request, _ in VARIANTS} | {"imported"} == set(METHODS), (
        "it makes nothing: test_imported"
    )
