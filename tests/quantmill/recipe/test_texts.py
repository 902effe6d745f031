"""Text in a recipe: shares of a mixture, what is refused at once, and digests that must not change."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from quantmill.errors import RecipeError
from quantmill.files import keys
from quantmill.recipe.recipe import Recipe, TokenRequest
from quantmill.recipe.recipe_file import parse_recipe
from quantmill.recipe.texts import apportion

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def recipe(**calibration: Any) -> Recipe:
    return parse_recipe({"model": {"source": "m"}, "variants": [{"method": "gptq"}], "calibration": calibration})


@pytest.mark.parametrize(
    ("weights", "total", "windows"),
    [
        ([1], 16, [16]),
        ([1, 1], 16, [8, 8]),
        ([3, 1], 16, [12, 4]),
        ([1, 1, 1], 16, [6, 5, 5]),
        ([0.7, 0.2, 0.1], 10, [7, 2, 1]),
        ([0.1, 0.1, 0.1], 2, [1, 1, 0]),
        ([1e6, 1e-6], 65536, [65536, 0]),
    ],
)
def test_windows_are_apportioned_by_largest_remainders(weights: list[float], total: int, windows: list[int]) -> None:
    assert apportion(weights, total) == windows


@given(st.lists(st.floats(min_value=1e-6, max_value=1e6), min_size=1, max_size=64), st.integers(1, 65536))
def test_all_windows_are_given_and_none_is_off_by_one_or_more(weights: list[float], total: int) -> None:
    windows = apportion(weights, total)
    assert sum(windows) == total
    assert all(abs(n - total * w / sum(weights)) < 1 + 1e-6 for n, w in zip(windows, weights, strict=True))


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ({"mix": [{"source": "a", "weight": 0}]}, r"calibration.mix\[0\].weight: .*greater than 0, got 0"),
        ({"mix": [{"source": "a", "weight": -1}]}, r"calibration.mix\[0\].weight: .*greater than 0, got -1"),
        ({"mix": [{"source": "a", "weight": float("nan")}]}, r"calibration.mix\[0\].weight: .*finite"),
        ({"mix": [{"source": "a", "weight": float("inf")}]}, r"calibration.mix\[0\].weight: .*finite"),
        ({"mix": [{"source": "a", "weight": "1"}]}, r"calibration.mix\[0\].weight: .*got '1'"),
        ({"mix": [{"source": "a"}, {"source": "b", "weight": 99}]}, r"calibration.mix\[0\].weight: 1 of 100 gives 0 of 16 samples"),
        ({"mix": [{"weight": 1}]}, r"calibration.mix\[0\].source: required"),
        ({"mix": [{"source": "a", "samples": 1}]}, r"calibration.mix\[0\].samples: unknown key; allowed: source, field"),
        ({"mix": [{"source": "a"}], "source": "b"}, r"calibration.mix: give source or mix, not both; source is b"),
        ({"mix": [{"source": "a"}], "chat_template": True}, r"calibration.chat_template: in a mix, set it for each source"),
        ({"mix": [{"source": "a.txt", "field": "b"}]}, r"calibration.mix\[0\].field: a.txt has no fields"),
        ({"field": "b"}, r"calibration.field: builtin has no fields"),
        ({"source": "a.txt", "split": "test"}, r"calibration.split: allowed only for a source dataset://org/name"),
        ({"source": "a.jsonl", "revision": COMMIT}, r"calibration.revision: allowed only for a source dataset://org/name"),
        ({"source": "dataset://a/b"}, r"calibration.revision: dataset://a/b needs a commit, 40 hex digits .*; got none"),
        ({"source": "dataset://a/b", "revision": "main"}, r"calibration.revision: .*; got main"),
        ({"source": "dataset://a/b/c", "revision": COMMIT}, r"calibration.source: dataset://a/b/c: write it as dataset://"),
        ({"source": "dataset://../b", "revision": COMMIT}, r"calibration.source: dataset://../b: write it as"),
        ({"source": "dataset://a/b", "revision": COMMIT, "split": "train[:1]"}, r"calibration.split: "),
        ({"chat_template": "yes"}, r"calibration.chat_template: .*boolean, got 'yes'"),
        ({"source": "a.jsonl", "field": "a\nb"}, r"calibration.field: "),
    ],
)  # fmt: skip
def test_what_is_refused(calibration: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=f"^{message}") as raised:
        recipe(samples=16, **calibration)
    assert "\n" not in str(raised.value)


def test_the_simple_form_is_written_and_hashed_as_it_always_was() -> None:
    """Recipes are in manifests: a field that came later must not rename what was published before."""
    simple = {"source": "builtin", "samples": 8, "sequence_length": 512, "seed": 0}
    assert TokenRequest(samples=8).model_dump() == simple
    assert keys.digest(recipe(samples=8).calibration) == keys.digest(simple)


def test_what_is_written_is_read_back_and_the_order_of_keys_does_not_count() -> None:
    entry = {"source": "a.jsonl", "weight": 2, "field": "body", "chat_template": True}
    hub = {"source": "dataset://a/b", "revision": COMMIT, "split": "test", "subset": "en"}
    one = recipe(mix=[entry, hub], samples=9)
    other = recipe(samples=9, mix=[dict(reversed(entry.items())), dict(reversed(hub.items()))])
    assert keys.digest(one) == keys.digest(other)
    assert parse_recipe(one.model_dump(mode="json")) == one
    assert one.calibration.model_dump()["mix"] == [entry | {"weight": 2.0}, hub | {"weight": 1.0}]
    assert keys.digest(one) != keys.digest(recipe(mix=[entry, hub | {"split": "train"}], samples=9))


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("builtin", "builtin"),
        ("./builtin", "text"),
        ("a.TXT", "text"),
        ("a.jsonl", "jsonl"),
        ("a.JSONL.gz", "jsonl.gz"),
        ("a.parquet", "parquet"),
    ],
)
def test_a_name_says_how_it_is_read(source: str, kind: str) -> None:
    assert TokenRequest(source=source).kind == kind


def test_the_examples_of_the_page_are_recipes() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "calibration.md").read_text(encoding="utf-8")
    examples = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    made = [recipe(**example["calibration"]).calibration for example in examples]
    assert [share.windows for share in made[-1].shares] == [32, 16, 16]
