"""The options of a method beside bits and type: a class for each method, and facts of each field."""

import re
import types
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal, Self, Union, get_args, get_origin

from annotated_types import Ge, Le
from pydantic import BaseModel, ConfigDict, Field

from quantmill.recipe.layer_rules import LayerRule

OptionValue = int | float | bool | str
ComputeType = Literal["bfloat16", "float16", "float32"]
GroupSize = Literal[-1, 32, 64, 128]
_GROUPS = "group_size"


class MethodOptions(BaseModel):
    """The options of one method; the method's module has a subclass whose fields `choice` declares."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def require(self, bits: int, layers: Sequence[LayerRule]) -> None:
        """Raise ValueError if the options contradict each other, the bits or the layer rules."""

    def cheaper(self) -> tuple[Self, str] | None:
        """Return options that need less memory, and the change in words; None: there are none."""
        return None


class Option(BaseModel):
    """The facts of one option, as `quantmill methods` prints them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="The field of a variant request that sets it.")
    default: OptionValue | None = Field(
        description="The value of a request that does not name the option; None: unset."
    )
    allowed: tuple[OptionValue, ...] = Field(default=(), description="The values allowed; empty: see the range.")
    minimum: float = Field(default=0.0, description="The least value of a number.")
    maximum: float = Field(default=1.0, description="The greatest value of a number.")
    whole: bool = Field(default=False, description="Whether a number must be whole.")
    pattern: str = Field(default="", description="The regular expression of a text.")
    words: str = Field(default="", description="The pattern in words.")
    named: bool = Field(default=True, description="Whether a variant's name states a value other than the default.")
    types: tuple[str, ...] = Field(default=(), description="The method's types that have the option; empty: all.")
    suffix: str = Field(default="", description="Part of the variant's name for a value other than the default.")

    def accepts(self, value: object) -> bool:
        """Return whether the option allows `value`."""
        if self.pattern:
            return isinstance(value, str) and re.fullmatch(self.pattern, value) is not None
        if self.allowed:
            return any(value == known and type(value) is type(known) for known in self.allowed)
        kinds = int if self.whole else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool) and self.minimum <= value <= self.maximum

    def allows(self) -> str:
        """Return the allowed values in words."""
        if self.pattern:
            return self.words
        if self.allowed:
            return ", ".join(str(value).lower() if isinstance(value, bool) else str(value) for value in self.allowed)
        return f"a {'whole ' if self.whole else ''}number from {self.minimum:g} to {self.maximum:g}"

    def label(self, value: OptionValue) -> str:
        """Return the part of the variant's name that states a value."""
        if isinstance(value, bool):
            return self.suffix
        if self.name == _GROUPS:
            return "grow" if value == -1 else f"g{value}"
        return value if isinstance(value, str) else f"{self.suffix}{value:g}"

    @property
    def always_named(self) -> bool:
        """Whether a variant's name states even the default, before other options: true for `group_size`."""
        return self.name == _GROUPS

    def is_told(self, value: OptionValue) -> bool:
        """Return whether the variant's name states `value`."""
        return self.always_named or (self.named and value != self.default)


def choice(
    default: OptionValue | None,
    help_: str,
    *,
    title: str = "",
    suffix: str = "",
    types: tuple[str, ...] = (),
    named: bool = True,
    words: str = "",
    example: OptionValue | None = None,
    **limits: Any,
) -> Any:
    """Declare an option of a method.

    Args:
        default: the value if a request does not name the option.
        help_: the description in form and schema.
        title: the title in the form; empty: the option's name.
        suffix: the part of the variant's name for another value than the default.
        types: the method's types that have the option; empty: all.
        named: whether the variant's name states another value than the default.
        words: the pattern in words.
        example: an example value.
        limits: pydantic's `ge`, `le` and `pattern`.
    """
    extra: Any = {"suffix": suffix, "types": list(types), "named": named, "words": words, "in_form": title}
    examples = None if example is None else [example]
    return Field(default=default, description=help_, examples=examples, json_schema_extra=extra, **limits)


GROUP_SIZE = choice(64, "Number of weights that share a scale; -1: a whole row.")
SYMMETRIC = choice(True, "Symmetric grid, without a zero point.", title="Symmetric grid", suffix="asym")
DEVICE_MAP = choice(None, "How layers are spread over several GPUs; empty: all on the recipe's device.", named=False)
"""Options of several methods; a method that allows fewer values narrows the type."""


@cache
def facts_of(choices: type[MethodOptions]) -> tuple[Option, ...]:
    """Return the facts of each option that a class declares, in order."""
    return tuple(_facts(name, field) for name, field in choices.model_fields.items())


def values_of(annotation: Any) -> tuple[Any, tuple[OptionValue, ...]]:
    """Return the plain type of an option (int, float, bool, str) and its listed values; empty: any value."""
    if get_origin(annotation) in (Union, types.UnionType):
        (annotation,) = (part for part in get_args(annotation) if part is not type(None))
    if get_origin(annotation) is Literal:
        values = get_args(annotation)
        return type(values[0]), values
    return annotation, (True, False) if annotation is bool else ()


def _facts(name: str, field: Any) -> Option:
    kind, values = values_of(field.annotation)
    said = field.json_schema_extra
    limits: dict[str, Any] = {}
    for limit in field.metadata:
        if isinstance(limit, Ge):
            limits["minimum"] = float(limit.ge)  # type: ignore[arg-type]
        elif isinstance(limit, Le):
            limits["maximum"] = float(limit.le)  # type: ignore[arg-type]
        elif pattern := getattr(limit, "pattern", ""):
            limits["pattern"] = pattern
    return Option(
        name=name,
        default=field.default,
        allowed=values,
        whole=kind is int and not values,
        named=said["named"],
        suffix=said["suffix"],
        types=tuple(said["types"]),
        words=said["words"],
        **limits,
    )
