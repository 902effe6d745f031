"""The options of all methods as one flat list, made from the methods' option classes.

Variant requests and variants have a field for each of them.
"""

from functools import cache
from typing import Any, Literal, NamedTuple

from quantmill.recipe.methods import METHODS
from quantmill.recipe.options import Option, OptionValue, values_of


class FlatOption(NamedTuple):
    """An option as a field of requests and variants, shared by all methods that have it."""

    name: str
    plain: Any
    """The type of one value: a `Literal` of the values that any method allows, else int, float, bool or str."""
    title: str
    description: str
    examples: list[Any] | None
    pattern: str
    """The regular expression of a text; empty: any."""


@cache
def flat_options() -> tuple[FlatOption, ...]:
    """Return every option of every method once, in the order of the form.

    Options of many methods come first; options that do not change a variant's name come last.

    Raises:
        ImportError: two methods declare an option with different types.
    """
    owners: dict[str, list[str]] = {}
    for method in METHODS.values():
        for option in method.options:
            owners.setdefault(option.name, []).append(method.name)
    shared = sorted(owners, key=lambda name: (not _facts(name, owners)[0].named, -len(owners[name])))
    return tuple(_flat(name, owners[name]) for name in shared)


def _facts(name: str, owners: dict[str, list[str]]) -> list[Option]:
    return [option for owner in owners[name] if (option := METHODS[owner].option(name))]


def _flat(name: str, owners: list[str]) -> FlatOption:
    declared = [METHODS[owner].choices.model_fields[name] for owner in owners]
    kinds = [values_of(field.annotation) for field in declared]
    if len({(kind, bool(values)) for kind, values in kinds}) > 1:
        raise ImportError(f"option {name}: {' and '.join(owners)} declare different types")
    kind, values = kinds[0]
    for _, others in kinds[1:]:
        values = tuple(dict.fromkeys((*values, *others)))
    said = dict.fromkeys(field.description or "" for field in declared)
    texts = [
        _whose(name, [o for o, f in zip(owners, declared, strict=True) if f.description == text]) + text
        for text in said
    ]
    title = next((str(field.json_schema_extra["in_form"]) for field in declared if field.json_schema_extra), "")  # type: ignore[index]
    return FlatOption(
        name, _type(kind, values), title, " ".join(texts), declared[0].examples, _facts(name, {name: owners})[0].pattern
    )


def _whose(name: str, owners: list[str]) -> str:
    """Return the start of an option's description: the methods, and the types, that have the option."""
    words = [METHODS[owner].label for owner in owners]
    kinds = [kind for owner in owners if (option := METHODS[owner].option(name)) for kind in option.types]
    return f"{', '.join(words)}{' ' + ', '.join(kinds) if kinds else ''}: "


def _type(kind: Any, values: tuple[OptionValue, ...]) -> Any:
    return kind if kind is bool or not values else Literal[values]
