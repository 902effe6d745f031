"""A recipe is read as meant, or refused in one line that names the field and the allowed values."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from quantmill.errors import RecipeError
from quantmill.recipe.methods import METHODS
from quantmill.recipe.recipe import Recipe, default_model_name
from quantmill.recipe.recipe_file import editor_schema, parse_recipe, read_recipe

ROOT = Path(__file__).resolve().parents[3]


def recipe(*variants: dict[str, Any], **fields: Any) -> Recipe:
    return parse_recipe({"model": {"source": "some/model"}, "variants": list(variants), **fields})


def test_lists_multiply_in_order() -> None:
    made = recipe({"method": "gptq", "bits": [4, 8], "group_size": [64, 128]}, {"method": "gguf", "type": "Q4_K_M"})
    assert [spec.name for spec in made.expand()] == [
        "gptq-4bit-g64",
        "gptq-4bit-g128",
        "gptq-8bit-g64",
        "gptq-8bit-g128",
        "gguf-q4_k_m",
    ]


@pytest.mark.parametrize(
    ("request_", "names"),
    [
        ({"method": "bitsandbytes", "bits": [8, 4]}, ["bitsandbytes-int8", "bitsandbytes-nf4"]),
        ({"method": "bitsandbytes"}, ["bitsandbytes-int8", "bitsandbytes-nf4"]),
        ({"method": "bitsandbytes", "bits": [8, 4], "type": "fp4"}, ["bitsandbytes-fp4", "bitsandbytes-int8"]),
        ({"method": "bitsandbytes", "type": "nf4", "double_quant": False}, ["bitsandbytes-nf4-single"]),
        (
            {"method": "bitsandbytes", "bits": [8, 4], "double_quant": [True, False]},
            ["bitsandbytes-int8", "bitsandbytes-nf4", "bitsandbytes-nf4-single"],
        ),
        ({"method": "gptq"}, ["gptq-4bit-g64"]),
        ({"method": "gptq", "group_size": -1, "desc_act": True, "sym": False}, ["gptq-4bit-grow-act-asym"]),
        ({"method": "gptq", "damp_percent": 0.1}, ["gptq-4bit-g64-damp0.1"]),
        ({"method": "baseline"}, ["baseline-bf16"]),
    ],
)
def test_names(request_: dict[str, Any], names: list[str]) -> None:
    assert [spec.name for spec in recipe(request_).expand()] == names


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"method": "zip"}, "variants[0].method: .*'gptq'.*got 'zip'"),
        ({"method": "gptq", "bits": 5}, "variants[0].bits: gptq supports 2, 3, 4, 8 bits, got 5"),
        ({"method": "gptq", "bits": [4, 5]}, "variants[0].bits: gptq supports 2, 3, 4, 8 bits, got 5"),
        ({"method": "gptq", "bits": True}, "variants[0].bits: gptq supports 2, 3, 4, 8 bits, got True"),
        ({"method": "gptq", "group_size": 100}, "variants[0].group_size: gptq supports -1, 32, 64, 128; got 100"),
        ({"method": "gptq", "type": "Q4_0"}, "variants[0].type: gptq takes no type; got 'Q4_0'"),
        ({"method": "gptq", "damp_percent": 1.5}, "variants[0].damp_percent: .*from 0.0001 to 0.9999; got 1.5"),
        ({"method": "gptq", "double_quant": True}, "variants[0].double_quant: gptq does not have it"),
        ({"method": "gptq", "bitz": 4}, "variants[0].bitz: unknown key; allowed: method, bits"),
        ({"method": "gguf"}, "variants[0].type: gguf needs at least one of F32"),
        ({"method": "gguf", "bits": 4}, "variants[0].bits: gguf takes a type instead"),
        ({"method": "bitsandbytes", "bits": 8, "type": "nf4"}, "variants[0].type: nf4 needs 4 in bits"),
        ({"method": "bitsandbytes", "type": "nf4", "threshold": 5.0}, "variants[0].threshold: bitsandbytes has it for int8 only"),
        ({"method": "bitsandbytes", "compute_dtype": "int4"}, "variants[0].compute_dtype: bitsandbytes supports bfloat16, float16"),
        ({"method": "awq", "bits": 8}, "variants[0].bits: awq supports 4 bits, got 8"),
        ({"method": "awq", "group_size": -1}, "variants[0].group_size: awq supports 32, 64, 128; got -1"),
        ({"method": "hqq", "axis": 2}, "variants[0].axis: hqq supports 0, 1; got 2"),
        ({"method": "hqq", "bits": 5}, "variants[0].bits: hqq supports 8, 4, 3, 2, 1 bits, got 5"),
        ({"method": "autoround", "iterations": 1.5}, "variants[0].iterations: autoround supports a whole number from 0 to 10000"),
        ({"method": "autoround", "learning_rate": 0}, "variants[0].learning_rate: autoround supports a number from 1e-06 to 1; got 0"),
        ({"method": "autoround", "bits": 8, "export_format": "auto_awq"}, "variants[0].*export_format: auto_awq holds 4 bits"),
        ({"method": "gguf", "type": "IQ2_M"}, "variants[0].type: IQ2_M needs an importance matrix"),
        ({"method": "gptq", "layers": [{"match": "(", "bits": 8}]}, "variants[0].layers[0].match: not a regular expression"),
        ({"method": "gptq", "layers": [{"match": "([a-z.]+)+$", "bits": 8}]}, "variants[0].*may search for ever; at most 3"),
        ({"method": "hqq", "layers": [{"match": r"\w*\w*\w*\w*[.]", "bits": 8}]}, "variants[0].*may search for ever"),
        ({"method": "gptq", "layers": [{"match": "x", "bits": 5}]}, "variants[0].*layers: gptq supports 2, 3, 4, 8, 16 bits, got 5"),
        ({"method": "bitsandbytes", "layers": [{"match": "x", "bits": 8}]}, "variants[0].*layers: bitsandbytes supports 16 bits, got 8"),
        ({"method": "awq", "layers": [{"match": "x", "bits": 8}]}, "variants[0].layers: awq has one bit width for all"),
    ],
)  # fmt: skip
def test_a_wrong_variant_is_refused(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message.replace("[0]", r"\[0\]").replace("[4", r"\[4")) as raised:
        recipe(request_)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "match",
    [
        "down_proj",
        r"layers\.\d{1,2}\.(self_attn|mlp)\.\w+_proj$",
        r"(?i)[*+?{]MLP",
        r"^(?:model\.)?layers\.[0-3]\.",
        r"\(a\)+",
    ],
)
def test_a_rule_that_ends_is_taken(match: str) -> None:
    assert recipe({"method": "gptq", "layers": [{"match": match, "bits": 8}]}).variants[0].layers[0].match == match


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"variants": [{"method": "gptq"}]}, "model: required"),
        ({"model": {"source": "x"}, "variants": []}, "variants: .*at least 1"),
        ({"model": {"source": "x", "sauce": 1}, "variants": [{"method": "gptq"}]}, "model.sauce: unknown key; allowed: source, revision"),
        ({"model": {"source": "x"}, "variants": [{"method": "gptq"}], "gates": {"max_mean_kl": "much"}}, "gates.max_mean_kl: .*'much'"),
        ({"model": {"source": "x"}, "variants": [{"method": "gptq"}, {"method": "gptq"}]}, r"variants\[1\]: gptq-4bit-g64 is already"),
        ({"model": {"source": "x"}, "variants": [{"method": "gptq"}], "publish": {"model": "../up"}}, "publish.model: "),
        ({"model": {"source": "x"}, "variants": [{"method": "gptq"}], "gates": {"max_p99_kl": float("inf")}}, "gates.max_p99_kl"),
        ({"model": {"source": "x"}, "variants": [{"method": "gptq"}], "calibration": {"samples": True}}, "calibration.samples"),
        ({"model": {"source": "x"}, "variants": [{"method": "gptq"}], "publish": {"model": "con"}}, "publish.model: a name"),
        ({"model": {"source": "x\ny"}, "variants": [{"method": "gptq"}]}, "model.source"),
        ([], "recipe: "),
    ],
)  # fmt: skip
def test_a_wrong_recipe_is_refused(data: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(data)


@pytest.mark.parametrize(
    ("request_", "names"),
    [
        ({"method": "bitsandbytes", "type": "nf4", "compute_dtype": "float32"}, ["bitsandbytes-nf4-float32"]),
        ({"method": "bitsandbytes", "threshold": [6.0, 0.0]}, ["bitsandbytes-int8", "bitsandbytes-int8-t0", "bitsandbytes-nf4"]),
        ({"method": "awq", "zero_point": [True, False]}, ["awq-4bit-g64", "awq-4bit-g64-sym"]),
        ({"method": "hqq", "bits": [8, 1], "axis": 0}, ["hqq-8bit-g64-axis0", "hqq-1bit-g64-axis0"]),
        ({"method": "autoround", "iterations": [200, 0]}, ["autoround-4bit-g64", "autoround-4bit-g64-i0"]),
        ({"method": "autoround", "export_format": "auto_gptq", "low_memory": False}, ["autoround-4bit-g64-fast-auto_gptq"]),
        ({"method": "gguf", "type": ["IQ4_XS", "TQ1_0"]}, ["gguf-iq4_xs", "gguf-tq1_0"]),
    ],
)  # fmt: skip
def test_options_are_in_the_names_where_they_are_not_the_default(request_: dict[str, Any], names: list[str]) -> None:
    assert [spec.name for spec in recipe(request_).expand()] == names


def test_rules_are_in_the_name_and_several_sets_of_rules_are_several_variants() -> None:
    rules = [[{"match": "down_proj", "bits": bits}] for bits in (8, 16)]
    parsed = parse_recipe(
        {"model": {"source": "x"}, "variants": [{"method": "gptq", "layers": rule} for rule in rules]}
    )
    one, other = parsed.expand()
    assert re.fullmatch(r"gptq-4bit-g64-mix[0-9a-f]{6}", one.name)
    assert one.name != other.name
    assert one.runtime(0) == "gptqmodel", "transformers knows one width for all layers"


def test_a_group_size_that_does_not_divide_a_layer_is_refused() -> None:
    with pytest.raises(
        RecipeError, match=r"variants\[0\].group_size: 128 does not divide.*576; allowed for this model: -1, 32, 64"
    ):
        recipe({"method": "gptq", "group_size": [64, 128]}).expand((576, 1536))
    assert recipe({"method": "gptq", "group_size": [-1, 64]}).expand((576, 1536))


def test_file_and_overrides(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("model: {source: a}\nvariants:\n  - {method: gptq}\n")
    made = read_recipe(path, ("model.source=./other", "variants.0.bits=[3, 8]", "gates.max_mean_kl=0.5"))
    assert made.model.source == "./other"
    assert [spec.bits for spec in made.expand()] == [3, 8]
    assert made.gates.max_mean_kl == 0.5
    for bad, words in (
        ("nonsense", "KEY=VALUE"),
        ("variants.7.bits=4", "no such field"),
        ("model.x=1", "model.x: unknown key"),
    ):
        with pytest.raises(RecipeError, match=words):
            read_recipe(path, (bad,))


@pytest.mark.parametrize(
    "text",
    [
        "a: &x [1]\nb: *x",
        "model: {source: a, source: b}",
        "{",
        "- a\n b: [",
        "\x00",
        "just words",
        "a: !!python/object/apply:os.system [true]",
    ],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"r\.yaml: ") as raised:
        read_recipe(path)
    assert "\n" not in str(raised.value)


_scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(list(METHODS))
)
_keys = st.sampled_from(["model", "source", "variants", "method", "bits", "type", "gates", "calibration"]) | st.text(
    max_size=5
)
_data = st.recursive(_scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=5))


@settings(max_examples=1500, deadline=None)
@given(st.dictionaries(st.sampled_from(list(Recipe.model_fields)), _data) | _data)
def test_fault_19_any_data_is_a_recipe_or_one_line(data: Any) -> None:
    try:
        parse_recipe(data)
    except RecipeError as error:
        assert str(error)
        assert "\n" not in str(error)


def test_what_is_no_file_or_too_large_is_refused_at_once(tmp_path: Path) -> None:
    big = tmp_path / "big.yaml"
    big.write_bytes(b"#" * (1 << 20) + b"##")
    for path, words in (
        (Path("/dev/zero"), "at most 1048576 bytes"),
        (tmp_path, "is a folder; name a recipe in it"),
        (tmp_path / "none.yaml", "no such file"),
        (big, "at most 1048576 bytes"),
    ):
        with pytest.raises(RecipeError, match=words):
            read_recipe(path)


def test_model_names() -> None:
    assert default_model_name("package://m/SmolLM2-135M-Instruct.Q4_1.gguf") == "smollm2-135m-instruct.q4_1"
    assert default_model_name("/models/My Model/") == "my-model"
    with pytest.raises(RecipeError, match=r"publish\.model"):
        default_model_name("...")


def test_the_schema_for_editors_is_current() -> None:
    kept = json.loads((ROOT / "deployments" / "recipes" / "recipe.schema.json").read_text())
    assert kept == editor_schema(), "run `make schema`"


@pytest.mark.parametrize("path", sorted((ROOT / "deployments" / "recipes").glob("*.yaml")), ids=lambda p: p.name)
def test_recipes_of_the_project_are_valid(path: Path) -> None:
    import jsonschema

    assert read_recipe(path).expand()
    schema = json.loads((ROOT / "deployments" / "recipes" / "recipe.schema.json").read_text())
    jsonschema.validate(yaml.safe_load(path.read_text()), schema)
    wrong = yaml.safe_load(path.read_text()) | {"variants": [{"method": "gptq", "bits": 5}]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema)


@pytest.mark.parametrize("method", METHODS)
def test_a_recipe_that_was_written_down_is_the_same(method: str) -> None:
    """A written recipe has every field, also fields that the method lacks: AWQ's `layers` was refused."""
    asked = recipe({"method": method, "type": "Q8_0"} if method == "gguf" else {"method": method})
    assert Recipe.model_validate_json(asked.model_dump_json()) == asked
