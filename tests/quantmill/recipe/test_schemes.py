"""The rows of schemes: complete, true to their own examples, and named in the docs."""

import dataclasses
from pathlib import Path

import pytest

from quantmill.recipe.recipe import ModelRequest, default_model_name
from quantmill.recipe.schemes import SCHEMES, Scheme, hub_name, require_written, scheme_of

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("row", SCHEMES.values(), ids=lambda row: row.name)
def test_a_row_is_true_to_its_example(row: Scheme) -> None:
    assert scheme_of(row.example) is row is require_written(row.example)
    assert default_model_name(row.example)
    assert ModelRequest(source=row.example).remote == row.remote
    assert (ROOT / "tasks" / "source" / "schemes" / f"{row.name}.py").is_file()
    assert f"`{row.prefix or './'}" in (ROOT / "docs" / "sources.md").read_text(encoding="utf-8")


def test_a_row_that_lacks_a_fact_fails() -> None:
    for field in dataclasses.fields(Scheme):
        facts = {known.name: None for known in dataclasses.fields(Scheme) if known is not field}
        with pytest.raises(TypeError, match=field.name):
            Scheme(**facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "nowhere://a/b",
            "allowed are a folder or a .gguf file, hf://org/name, mlflow://models/name/version, package://",
        ),
        ("folder://a", "allowed are a folder"),
        ("hf://name", "write it as hf://org/name"),
        ("hf://org/../name", "write it as hf://org/name"),
        ("hf://org/a--b", "write it as hf://org/name"),
        ("mlflow://models/x", "write it as mlflow://models/name/version or mlflow://models/name@alias"),
        ("package://no-module/file", "write it as package://module/file"),
        ("package://module", "write it as package://module/file"),
        ("s3://", "write it as s3://bucket/prefix"),
    ],
)
def test_a_source_that_is_not_written_by_a_rule(source: str, words: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]*$") as raised:
        require_written(source)
    assert str(raised.value).startswith(f"{source}: {words}")


@pytest.mark.parametrize(
    ("source", "name"),
    [("hf://org/name", "org/name"), ("hf://org", ""), ("org/name", ""), ("s3://bucket/name", ""), ("x://a/b", "")],
)
def test_only_a_repository_of_the_hub_has_a_name_there(source: str, name: str) -> None:
    assert hub_name(source) == name


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("hf://Org/Tiny_Model", "tiny_model"),
        ("s3://bucket/models/Tiny/", "tiny"),
        ("s3://bucket", "bucket"),
        ("mlflow://models/My-Base/3", "my-base"),
        ("mlflow://models/My-Base@best", "my-base"),
        ("package://module/A.Q8_0.gguf", "a.q8_0"),
        ("./Models/Tiny Model", "tiny-model"),
        ("C:\\models\\Tiny", "tiny"),
        ("other://place/Tiny", "tiny"),
    ],
)
def test_the_default_name_that_keys_hold_stays(source: str, name: str) -> None:
    assert default_model_name(source) == name
