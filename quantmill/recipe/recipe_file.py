"""Reads a recipe file (YAML) with `--set` values; a mistake becomes one line that names the field."""

import re
import reprlib
import types
from collections.abc import Hashable
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from quantmill.errors import RecipeError
from quantmill.files.yaml_file import field_path
from quantmill.recipe.recipe import Recipe

_MAX_BYTES = 1 << 20


def read_recipe(path: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Return the recipe in a YAML file, with overrides such as `model.source=...` applied.

    Raises:
        RecipeError: the file cannot be read, is not YAML, or a field holds a value that is not allowed.
    """
    try:
        if not path.exists():
            raise RecipeError(f"{path}: no such file")
        if path.is_dir():
            raise RecipeError(f"{path}: is a folder; name a recipe in it")
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise RecipeError(f"{path}: a recipe holds at most {_MAX_BYTES} bytes")
        data = yaml.load(content.decode(), _Loader)  # noqa: S506 (a SafeLoader that refuses more)
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise RecipeError(f"{path}: not YAML: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: a recipe is a mapping with the keys {', '.join(Recipe.model_fields)}")
    for override in overrides:
        _apply(data, override)
    return parse_recipe(data)


def parse_recipe(data: Any) -> Recipe:
    """Return the recipe in plain data; raises RecipeError as `read_recipe` does."""
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError(_one_line(error)) from error
    except RecursionError as error:
        raise RecipeError("recipe: nested too deeply") from error


def editor_schema() -> dict[str, Any]:
    """Return the recipe's JSON schema for YAML editors; it allows a single value in place of a list."""
    schema = Recipe.model_json_schema()
    for field in schema["$defs"]["VariantRequest"]["properties"].values():
        if field.get("type") == "array":
            several = {key: field.pop(key) for key in ("type", "items")}
            field["anyOf"] = [several["items"], several]
    return schema


class _Loader(yaml.SafeLoader):
    """A YAML loader that rejects duplicate keys, and aliases, which can turn a kilobyte into gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := {name for name in names if names.count(name) > 1}:
            raise yaml.YAMLError(f"the key {min(twice)} occurs twice")
        return super().construct_mapping(node, deep)


def _apply(data: dict[str, Any], override: str) -> None:
    """Apply an override such as `a.b.0.c=value` to `data`; the value is read as YAML."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise RecipeError(f"--set {override}: write it as KEY=VALUE, for example --set model.source=./model")
    *parents, last = path.split(".")
    at: Any = data
    try:
        value = yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader that refuses more)
        for key in parents:
            at = at[int(key)] if isinstance(at, list) else at.setdefault(key, {})
        at[int(last) if isinstance(at, list) else last] = value
    except (TypeError, ValueError, IndexError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise RecipeError(f"--set {override[:80]}: the recipe has no such field, or the value is not YAML") from error


def _one_line(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    location = first["loc"]
    where, value = field_path(location), first.get("input")
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key; allowed: {', '.join(_fields_at(location[:-1]))}"
    if first["type"] == "missing":
        return f"{where}: required"
    if first["type"] == "value_error":
        message = str(first["ctx"]["error"])
        names_a_field = re.match(r"[a-z0-9_]+(\[\d+\])?[:.]", message)
        return f"{where}{'.' if names_a_field else ': '}{message}" if where else message
    shown = "" if isinstance(value, dict) else f", got {reprlib.repr(value)}"
    return f"{where or 'recipe'}: {first['msg'][0].lower()}{first['msg'][1:]}{shown}"


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    """Return the field names of the recipe's model at `location`."""
    kind: Any = Recipe
    for part in location:
        if isinstance(part, str) and isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = kind.model_fields[part].annotation
        elif get_origin(kind) in (list, tuple, types.UnionType):
            kind = get_args(kind)[0]
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []
