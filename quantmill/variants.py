"""Variants: one request lists choices (a form, a YAML entry) and expands to specs, in which every choice is made."""

import itertools
import reprlib
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from quantmill.methods import METHODS, Bits, GroupSize, Method, MethodName, TypeName, nominal_bits

_FORBID = ConfigDict(frozen=True, extra="forbid")


def _listed(value: object) -> object:
    return value if isinstance(value, list | tuple) or value is None else [value]


_Wrap = BeforeValidator(_listed)


class VariantSpec(BaseModel):
    """One variant: every choice of its method made; what the method does not know is None."""

    model_config = _FORBID

    method: MethodName = Field(description="A row of METHODS.")
    bits: int = Field(description="Nominal bit width.")
    type: str | None = Field(default=None, description="Named type: `nf4`, `Q4_K_M`.")
    group_size: int | None = Field(default=None, description="Weights that share a scale; -1: a whole row.")
    double_quant: bool | None = Field(default=None, description="Quantize the scales as well.")
    desc_act: bool | None = Field(default=None, description="Quantize columns by falling activation.")
    sym: bool | None = Field(default=None, description="Symmetric grid, no zero point.")
    damp_percent: float | None = Field(default=None, description="Share of the Hessian's mean diagonal added to it.")

    @property
    def row(self) -> Method:
        """The method's facts."""
        return METHODS[self.method]

    @property
    def name(self) -> str:
        """The variant's name, unique within a recipe: `gptq-4bit-g64`, `gguf-q4_k_m`, `bitsandbytes-nf4`."""
        parts = [self.method, self.type.lower() if self.type else f"{self.bits}bit"]
        if self.group_size is not None:
            parts.append("grow" if self.group_size == -1 else f"g{self.group_size}")
        for option in self.row.options:
            value = getattr(self, option.name)
            if option.suffix and value is not None and value != option.default:
                parts.append(option.suffix if isinstance(value, bool) else f"{option.suffix}{value:g}")
        return "-".join(parts)

    def canonical(self) -> dict[str, Any]:
        """Return the choices that the method knows, for keys: a later option of another method changes no key."""
        return self.model_dump(exclude_none=True)


class VariantRequest(BaseModel):
    """Variants of one method; every list multiplies: two bit widths and two group sizes are four variants."""

    model_config = _FORBID

    method: MethodName = Field(description="The quantization method.", json_schema_extra={"position": 0})
    bits: Annotated[list[Bits], _Wrap] = Field(
        default=[],
        description="Bit widths; empty: the method's 4 bits, or its types.",
        json_schema_extra={"position": 1},
    )
    type: Annotated[list[TypeName], _Wrap] = Field(
        default=[], description="GGUF types, or bitsandbytes' nf4 and fp4.", json_schema_extra={"position": 2}
    )
    group_size: Annotated[list[GroupSize], _Wrap] = Field(
        default=[], description="Weights that share a scale; -1: a whole row.", json_schema_extra={"position": 3}
    )
    double_quant: Annotated[list[bool], _Wrap] = Field(
        default=[], description="bitsandbytes 4 bit: quantize the scales too.", json_schema_extra={"position": 4}
    )
    desc_act: Annotated[list[bool], _Wrap] = Field(
        default=[], description="GPTQ: columns by falling activation.", json_schema_extra={"position": 5}
    )
    sym: Annotated[list[bool], _Wrap] = Field(
        default=[], description="GPTQ: symmetric grid.", json_schema_extra={"position": 6}
    )
    damp_percent: Annotated[list[float], _Wrap] = Field(
        default=[], description="GPTQ: dampening of the Hessian.", json_schema_extra={"position": 7}
    )

    @model_validator(mode="before")
    @classmethod
    def _against_the_row(cls, data: Any) -> Any:
        """Refuse in the method's own words before the menus of the form do it in general ones."""
        if isinstance(data, dict) and isinstance(row := METHODS.get(str(data.get("method"))), Method):
            for name, value in data.items():
                if name in cls.model_fields and name != "method":
                    _check(row, name, _listed(value))
        return data

    @model_validator(mode="after")
    def _expands(self) -> "VariantRequest":
        list(self.expand())
        return self

    def expand(self) -> Iterator[VariantSpec]:
        """Yield the variants that this request asks for, in the order of its lists.

        Raises:
            ValueError: the request names no type where the method needs one, or bits and type contradict each other.
        """
        row = METHODS[self.method]
        chosen = [(o.name, getattr(self, o.name) or [o.default]) for o in row.options]
        for (bits, kind), *values in itertools.product(self._widths(row), *(v for _, v in chosen)):
            options = dict(zip((name for name, _ in chosen), values, strict=True))
            if kind == "int8" and options.pop("double_quant") != chosen[0][1][0]:
                continue  # it has no scales to quantize: one variant, whatever the list
            yield VariantSpec(method=self.method, bits=bits, type=kind, **options)

    def _widths(self, row: Method) -> list[tuple[int, str | None]]:
        """Return the (bits, type) pairs asked for."""
        if not row.types:
            return [(bits, None) for bits in self.bits or [4]]
        types: list[str] = list(self.type)
        if self.method == "bitsandbytes":
            named = {nominal_bits(kind) for kind in types}
            if lone := named - set(self.bits) if self.bits else set():
                raise ValueError(f"type: {', '.join(types)} needs {min(lone)} in bits, got bits {list(self.bits)}")
            types += [
                {8: "int8", 4: "nf4"}[bits] for bits in self.bits or ([] if types else [8, 4]) if bits not in named
            ]
        elif self.method == "baseline":
            types = types or ["bf16"]
        if not types:
            raise ValueError(f"type: {row.name} needs at least one of {', '.join(row.types)}")
        return [(nominal_bits(kind), kind) for kind in types]


def _check(row: Method, name: str, values: object) -> None:
    """Raise ValueError where `row` does not know the option `name` or does not allow one of `values`."""
    for value in values if isinstance(values, list | tuple) else ():
        if name == "bits":
            if not row.bits:
                raise ValueError(
                    f"bits: {row.name} takes a type instead, one of {', '.join(row.types)}; got bits {reprlib.repr(value)}"
                )
            if value not in row.bits or isinstance(value, bool):
                raise ValueError(
                    f"bits: {row.name} supports {', '.join(map(str, row.bits))} bits, got {reprlib.repr(value)}"
                )
        elif name == "type":
            if value not in row.types:
                allowed = f"supports types {', '.join(row.types)}" if row.types else "takes no type"
                raise ValueError(f"type: {row.name} {allowed}; got {reprlib.repr(value)}")
        elif (option := row.option(name)) is None:
            known = ", ".join(o.name for o in row.options) or "no options"
            raise ValueError(f"{name}: {row.name} does not have it (it takes {known})")
        elif not option.accepts(value):
            raise ValueError(f"{name}: {row.name} supports {option.allows()}; got {reprlib.repr(value)}")
