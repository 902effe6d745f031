"""Variants keep their names and their canonical JSON: keys and published records contain both."""

import json
from pathlib import Path
from typing import Any

import pytest

from quantmill.files import keys
from quantmill.recipe.recipe import VariantRequest

FROZEN: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "frozen" / "variants.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("kept", FROZEN, ids=lambda kept: kept["request"]["method"])
def test_a_request_means_what_it_meant(kept: dict[str, Any]) -> None:
    specs = VariantRequest.model_validate(kept["request"]).expand()
    assert {spec.name: keys.digest(spec.canonical())[:12] for spec in specs} == kept["variants"]
