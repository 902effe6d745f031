"""Variant requests: a recipe's lists of options of one method, which multiply.

Every field is a menu of the form and a key of the YAML.
"""

import itertools
import reprlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model, model_validator

from quantmill.recipe.flat import flat_options
from quantmill.recipe.layer_rules import LayerRule
from quantmill.recipe.method_row import Method
from quantmill.recipe.methods import METHODS, MethodName
from quantmill.recipe.variants import VariantSpec


def _listed(value: object) -> object:
    return value if isinstance(value, list | tuple) or value is None else [value]


_Wrap = BeforeValidator(_listed)


def _menu(kind: Any, position: int, description: str, title: str = "", examples: Any = None, pattern: str = "") -> Any:
    """Return the field of a list of options; a single value is accepted in place of a list."""
    if pattern:
        kind = Annotated[kind, Field(pattern=f"^(?:{pattern})$")]
    shown = [[example] for example in examples] if examples else None
    extra: Any = {"position": position}
    field: Any = Field(
        default=[], description=description, title=title or None, examples=shown, json_schema_extra=extra
    )
    return (Annotated[list[kind], _Wrap], field)


def _whose(widths: str) -> str:
    """Return each method with its bits or types, for a description."""
    rows = [row for row in METHODS.values() if getattr(row, widths)]
    return "; ".join(f"{row.label}: {', '.join(map(str, getattr(row, widths)))}" for row in rows)


if TYPE_CHECKING:

    class _Menus(BaseModel):
        """The options of all methods, as lists."""

        bits: list[int]
        type: list[str]
        layers: list[LayerRule]

else:
    _OPTIONS = flat_options()
    _BITS = sorted({bits for row in METHODS.values() for bits in row.bits})
    _TYPES = tuple(kind for row in METHODS.values() for kind in row.types)
    _Menus = create_model(
        "_Menus",
        __config__=ConfigDict(frozen=True, extra="forbid"),
        method=(MethodName, Field(description="The quantization method.", json_schema_extra={"position": 0})),
        bits=_menu(Literal[tuple(_BITS)], 1, f"Bit widths. {_whose('bits')}. Empty: 4."),
        type=_menu(Literal[_TYPES], 2, f"Named types. {_whose('types')}."),
        **{
            option.name: _menu(
                option.plain, 4 + index, option.description, option.title, option.examples, option.pattern
            )
            for index, option in enumerate(_OPTIONS)
        },
        layers=_menu(LayerRule, 3, "Rules for layers with another bit width; the first matching rule decides."),
    )


class VariantRequest(_Menus):
    """Variants of one method; the lists multiply: two bit widths and two group sizes give four variants."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: MethodName = Field(description="The quantization method.", json_schema_extra={"position": 0})

    @model_validator(mode="before")
    @classmethod
    def _against_the_row(cls, data: Any) -> Any:
        """Reject values with the method's own message, before the fields reject them with a general one."""
        row = METHODS.get(str(data.get("method"))) if isinstance(data, dict) else None
        if row:
            for name, value in data.items():
                if name in cls.model_fields and name != "method" and (values := _listed(value)) != []:
                    _check(row, name, values)  # an empty list means that the field is not set
        return data

    @model_validator(mode="after")
    def _expands(self) -> "VariantRequest":
        list(self.expand())
        return self

    def expand(self) -> Iterator[VariantSpec]:
        """Yield the requested variants in the order of the lists.

        Raises:
            ValueError: the method needs a type and the request names none, or the options contradict each other.
        """
        row = METHODS[self.method]
        widths = self._widths(row)
        for option in row.options:
            if getattr(self, option.name) and not any(row.has(option, kind) for _, kind in widths):
                raise ValueError(f"{option.name}: {row.name} has it for {', '.join(option.types)} only")
        for rule in self.layers:
            rule.require_quick()
            rule.require_bits(row.name, row.rule_bits)
        for bits, kind in widths:
            chosen = {o.name: getattr(self, o.name) or [o.default] for o in row.options if row.has(o, kind)}
            for values in itertools.product(*chosen.values()):
                options = dict(zip(chosen, values, strict=True))
                spec = VariantSpec(method=self.method, bits=bits, type=kind, layers=tuple(self.layers), **options)
                spec.options.require(bits, self.layers)
                yield spec

    def _widths(self, row: Method) -> list[tuple[int, str | None]]:
        """Return the requested (bits, type) pairs."""
        if not row.types and not row.bits:
            return [(16, None)]  # replaced when the checkpoint's packing is read
        if not row.types:
            return [(bits, None) for bits in self.bits or row.default_bits]
        types = list(self.type)
        named = {row.nominal_bits(kind) for kind in types}
        if lone := named - set(self.bits) if self.bits else set():
            raise ValueError(f"type: {', '.join(types)} needs {min(lone)} in bits, got bits {list(self.bits)}")
        types += [row.type_of_bits[bits] for bits in self.bits if bits not in named]
        if not (types := types or list(row.default_types)):
            raise ValueError(f"type: {row.name} needs at least one of {', '.join(row.types)}")
        return [(row.nominal_bits(kind), kind) for kind in types]


def _check(row: Method, name: str, values: object) -> None:
    """Raise ValueError if the method lacks the option `name` or does not allow one of `values`."""
    if name in ("bits", "type", "layers") and not row.types and not row.bits:
        raise ValueError(f"{name}: {row.name} keeps a checkpoint unchanged; only source can be set")
    if name == "layers":
        if not row.rule_bits:
            raise ValueError(f"layers: {row.name} has one bit width for all layers")
        return
    for value in values if isinstance(values, list | tuple) else ():
        if name == "bits":
            _check_bits(row, value)
        elif name == "type":
            _check_type(row, value)
        elif (option := row.option(name)) is None:
            known = ", ".join(o.name for o in row.options) or "no options"
            raise ValueError(f"{name}: {row.name} does not have it (it takes {known})")
        elif not option.accepts(value):
            raise ValueError(f"{name}: {row.name} supports {option.allows()}; got {reprlib.repr(value)}")


def _check_bits(row: Method, value: object) -> None:
    if not row.bits:
        known = ", ".join(row.types)
        raise ValueError(f"bits: {row.name} takes a type instead, one of {known}; got bits {reprlib.repr(value)}")
    if value not in row.bits or isinstance(value, bool):
        raise ValueError(f"bits: {row.name} supports {', '.join(map(str, row.bits))} bits, got {reprlib.repr(value)}")


def _check_type(row: Method, value: object) -> None:
    if value not in row.types:
        allowed = f"supports types {', '.join(row.types)}" if row.types else "takes no type"
        raise ValueError(f"type: {row.name} {allowed}; got {reprlib.repr(value)}")
    if value in row.unmade_types:
        raise ValueError(f"type: {value} {row.unmade_why}")
