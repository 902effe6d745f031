"""The dashboard's form of a recipe: a menu, a title, a position and a description for every field."""

import re
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from flows.compress import compress
from flows.pools.pools import read_pools
from flows.server.deployments import FILE, read_deployments
from flows.server.form import form_of
from quantmill.errors import RequestError
from quantmill.recipe.recipe import Recipe
from tests.line import ROOT

SCHEMA = form_of(compress)
FIELDS = {
    f"{name}.{field}": shape
    for name, definition in SCHEMA["definitions"].items()
    for field, shape in definition["properties"].items()
} | {"recipe": SCHEMA["properties"]["recipe"]}


def is_chosen(shape: dict[str, Any]) -> bool:
    """Return whether there is nothing to type: a menu, a switch, or a panel of its own."""
    item = shape.get("items", shape)
    return "enum" in item or "$ref" in item or item.get("type") == "boolean"


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_has_its_place_and_its_words(name: str) -> None:
    shape = FIELDS[name]
    assert isinstance(shape.get("position"), int)
    assert re.fullmatch(r"[A-Z][a-z]*([ ,'-].*)?", shape["title"]), "words, not the name of a class or a variable"
    assert shape.get("description", "").endswith(".")
    assert "anyOf" not in shape and "oneOf" not in shape, "a switch between types is clumsy"
    assert is_chosen(shape) or shape.get("examples") or shape.get("default") not in (None, "", [])


def test_positions_are_those_of_one_list() -> None:
    for name, definition in SCHEMA["definitions"].items():
        places = [shape["position"] for shape in definition["properties"].values()]
        assert len(set(places)) == len(places), name


@pytest.mark.parametrize(
    ("name", "some"),
    [
        ("method", {"gptq", "gguf"}),
        ("bits", {4, 8}),
        ("type", {"Q4_K_M", "nf4"}),
        ("group_size", {-1, 128}),
    ],
)
def test_what_can_be_listed_is_a_menu(name: str, some: set[object]) -> None:
    shape = FIELDS[f"VariantRequest.{name}"]
    assert some <= set(shape.get("items", shape)["enum"])


@pytest.mark.parametrize(
    ("option", "fits"),
    [
        ({"iterations": [200], "low_memory": [True]}, True),
        ({"iterations": ["many"]}, False),
        ({"iteratoins": [200]}, False),
        ({"axis": [2]}, False),
    ],
)
def test_what_the_form_leaves_out_is_checked_alike(option: dict[str, Any], fits: bool) -> None:
    assert set(FIELDS) & {f"VariantRequest.{name}" for name in option} == set()
    recipe = {"model": {"source": "./m"}, "variants": [{"method": "autoround", **option}]}
    assert Draft202012Validator(SCHEMA).is_valid({"recipe": recipe, "landing": "m/1"}) == fits


def test_the_form_can_be_started_as_it_is_filled() -> None:
    pools = read_pools(ROOT / "deployments" / "pools.yaml")
    (entry,) = [entry for entry in read_deployments(pools) if entry.name == "compress"]
    Draft202012Validator(SCHEMA).validate(entry.parameters)
    recipe = Recipe.model_validate(entry.parameters["recipe"])
    assert [spec.name for spec in recipe.expand()] == ["bitsandbytes-int8", "gguf-q8_0", "gguf-q4_k_m"]


def test_every_pool_has_its_variants(tmp_path: Any) -> None:
    path = tmp_path / "pools.yaml"
    path.write_text(
        yaml.safe_dump({"pools": [{"name": "cpu", "memory": "1GB"}, {"name": "big", "memory": "2GB", "queue": "q"}]})
    )
    entries = {entry.name: entry.work_pool for entry in read_deployments(read_pools(path))}
    assert set(entries) == {"compress", "watch", "cpu", "big"}, "gpu is none of this list"
    assert (entries["big"].name, entries["big"].work_queue_name) == ("big", "q")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("flows.variant.variant", "flows/variant.py:variant", r"deployments\[\d\]\.entrypoint: String should match"),
        ("name: cpu, work_queue_name: lines", "name: nowhere, work_queue_name: lines", "compress: no pool nowhere"),
        ("tags:", "tagz:", r"deployments\[0\]\.tagz: Extra"),
        ("deployments:", "deploymentz:", "deployments: Field required"),
        ("flows.variant.variant", "flows.watch.watch", r"deployments: none runs a variant"),
    ],
)
def test_a_bad_list_of_deployments_is_one_line(tmp_path: Any, old: str, new: str, words: str) -> None:
    path = tmp_path / "prefect.yaml"
    path.write_text(FILE.read_text().replace(old, new))
    with pytest.raises(RequestError, match=words):
        read_deployments(read_pools(ROOT / "deployments" / "pools.yaml"), path)
