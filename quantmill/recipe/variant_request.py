"""What a recipe asks of one method: lists that multiply. Every field is a menu of the form and a key of the YAML."""

import itertools
import reprlib
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from quantmill.recipe import method_row
from quantmill.recipe.layer_rules import LayerRule
from quantmill.recipe.method_row import Bits, ComputeType, DeviceMap, ExportFormat, GroupSize, MethodName, TypeName
from quantmill.recipe.methods import IMATRIX_TYPES, METHODS, nominal_bits
from quantmill.recipe.variants import VariantSpec


def _listed(value: object) -> object:
    return value if isinstance(value, list | tuple) or value is None else [value]


_Wrap = BeforeValidator(_listed)
_Place = Annotated[str, Field(pattern=r"^[^\x00-\x1f]+$", max_length=4096)]


class VariantRequest(BaseModel):
    """Variants of one method; every list multiplies: two bit widths and two group sizes are four variants."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: MethodName = Field(description="The quantization method.", json_schema_extra={"position": 0})
    bits: Annotated[list[Bits], _Wrap] = Field(
        default=[],
        description="Bit widths of gptq, awq, hqq, autoround; empty: 4. bitsandbytes has 8 and 4.",
        json_schema_extra={"position": 1},
    )
    type: Annotated[list[TypeName], _Wrap] = Field(
        default=[], description="Types of gguf; of bitsandbytes int8, nf4 and fp4.", json_schema_extra={"position": 2}
    )
    group_size: Annotated[list[GroupSize], _Wrap] = Field(
        default=[], description="Weights that share a scale; -1: a whole row.", json_schema_extra={"position": 3}
    )
    double_quant: Annotated[list[bool], _Wrap] = Field(
        default=[],
        description="bitsandbytes 4 bit: quantize the scales too.",
        title="Double quantization",
        json_schema_extra={"position": 4},
    )
    compute_dtype: Annotated[list[ComputeType], _Wrap] = Field(
        default=[],
        description="bitsandbytes 4 bit: arithmetic of the loaded layers.",
        title="Compute type",
        json_schema_extra={"position": 5},
    )
    threshold: Annotated[list[float], _Wrap] = Field(
        default=[],
        description="bitsandbytes int8: activations above it stay in 16 bits.",
        examples=[[6.0]],
        json_schema_extra={"position": 6},
    )
    desc_act: Annotated[list[bool], _Wrap] = Field(
        default=[],
        description="GPTQ: columns by falling activation.",
        title="Descending activation order",
        json_schema_extra={"position": 7},
    )
    sym: Annotated[list[bool], _Wrap] = Field(
        default=[],
        description="GPTQ, AutoRound: symmetric grid.",
        title="Symmetric grid",
        json_schema_extra={"position": 8},
    )
    damp_percent: Annotated[list[float], _Wrap] = Field(
        default=[],
        description="GPTQ: dampening of the Hessian.",
        title="Dampening",
        examples=[[0.05]],
        json_schema_extra={"position": 9},
    )
    zero_point: Annotated[list[bool], _Wrap] = Field(
        default=[], description="AWQ: asymmetric grid.", json_schema_extra={"position": 10}
    )
    axis: Annotated[list[Literal[0, 1]], _Wrap] = Field(
        default=[],
        description="HQQ: 1 groups weights along the input, 0 along the output.",
        json_schema_extra={"position": 11},
    )
    iterations: Annotated[list[int], _Wrap] = Field(
        default=[],
        description="AutoRound: steps a block; 0 rounds to nearest with tuned ranges.",
        examples=[[200]],
        json_schema_extra={"position": 12},
    )
    learning_rate: Annotated[list[float], _Wrap] = Field(
        default=[],
        description="AutoRound: step size of the rounding.",
        examples=[[0.005]],
        json_schema_extra={"position": 13},
    )
    minmax_learning_rate: Annotated[list[float], _Wrap] = Field(
        default=[],
        description="AutoRound: step size of the range.",
        title="Learning rate of the range",
        examples=[[0.005]],
        json_schema_extra={"position": 14},
    )
    samples: Annotated[list[int], _Wrap] = Field(
        default=[],
        description="AutoRound: calibration windows used; 0: all.",
        examples=[[128]],
        json_schema_extra={"position": 15},
    )
    sequence_length: Annotated[list[int], _Wrap] = Field(
        default=[],
        description="AutoRound: tokens used of each window; 0: all.",
        examples=[[512]],
        json_schema_extra={"position": 16},
    )
    batch_size: Annotated[list[int], _Wrap] = Field(
        default=[], description="AutoRound: windows a step.", examples=[[8]], json_schema_extra={"position": 17}
    )
    low_memory: Annotated[list[bool], _Wrap] = Field(
        default=[], description="AutoRound: keep only the block at work in memory.", json_schema_extra={"position": 18}
    )
    export_format: Annotated[list[ExportFormat], _Wrap] = Field(
        default=[], description="AutoRound: how the artifact is packed.", json_schema_extra={"position": 19}
    )
    layers: Annotated[list[LayerRule], _Wrap] = Field(
        default=[],
        description="Layers that get another bit width; the first rule that matches a layer decides.",
        json_schema_extra={"position": 20},
    )
    source: Annotated[list[_Place], _Wrap] = Field(
        default=[],
        description="imported: where the finished checkpoint lies, a folder or a .gguf file; empty: the model itself.",
        examples=[["./my-model-gptq"]],
        json_schema_extra={"position": 21},
    )
    device_map: Annotated[list[DeviceMap], _Wrap] = Field(
        default=[],
        description="bitsandbytes, AutoRound: how layers are spread over several GPUs; empty: on the recipe's device.",
        json_schema_extra={"position": 22},
    )
    max_memory: Annotated[list[str], _Wrap] = Field(
        default=[],
        description="bitsandbytes: what each device may hold, with device_map: 0=20GiB,1=20GiB.",
        examples=[["0=20GiB,cpu=48GiB"]],
        json_schema_extra={"position": 23},
    )

    @model_validator(mode="before")
    @classmethod
    def _against_the_row(cls, data: Any) -> Any:
        """Refuse in the method's own words before the menus of the form do it in general ones."""
        if isinstance(data, dict) and isinstance(row := METHODS.get(str(data.get("method"))), method_row.Method):
            for name, value in data.items():
                if name in cls.model_fields and name != "method" and (values := _listed(value)) != []:
                    _check(row, name, values)  # an empty list is what a field holds that nobody set
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
        widths = self._widths(row)
        for option in row.options:
            if getattr(self, option.name) and not any(row.has(option, kind) for _, kind in widths):
                raise ValueError(f"{option.name}: {row.name} has it for {', '.join(option.types)} only")
        for rule in self.layers:
            rule.require_quick()
            rule.require_bits(row)
        self._require_format()
        if self.max_memory and not self.device_map:
            raise ValueError("max_memory: says how far a device_map goes; set that too, auto for one")
        for bits, kind in widths:
            chosen = {o.name: getattr(self, o.name) or [o.default] for o in row.options if row.has(o, kind)}
            for values in itertools.product(*chosen.values()):
                options = dict(zip(chosen, values, strict=True))
                yield VariantSpec(method=self.method, bits=bits, type=kind, layers=tuple(self.layers), **options)

    def _require_format(self) -> None:
        """Raise ValueError where AutoRound cannot pack what was asked for."""
        others = [kind for kind in self.export_format if kind != "auto_round"]
        if others and self.layers:
            raise ValueError(f"layers: the format {others[0]} has one bit width for all layers; auto_round has several")
        if "auto_awq" in self.export_format and set(self.bits) - {4}:
            raise ValueError(f"export_format: auto_awq holds 4 bits, got bits {list(self.bits)}")

    def _widths(self, row: method_row.Method) -> list[tuple[int, str | None]]:
        """Return the (bits, type) pairs asked for."""
        if not row.types and not row.bits:
            return [(16, None)]  # until it was looked at
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


def _check(row: method_row.Method, name: str, values: object) -> None:
    """Raise ValueError where `row` does not know the option `name` or does not allow one of `values`."""
    if name in ("bits", "type", "layers") and not row.types and not row.bits:
        raise ValueError(f"{name}: {row.name} takes a checkpoint as it is; source alone can be set")
    if name == "layers":
        if not row.rule_bits:
            raise ValueError(f"layers: {row.name} has one bit width for all layers")
        return
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
            if value in IMATRIX_TYPES:
                raise ValueError(f"type: {value} needs an importance matrix, which is not made here yet")
        elif (option := row.option(name)) is None:
            known = ", ".join(o.name for o in row.options) or "no options"
            raise ValueError(f"{name}: {row.name} does not have it (it takes {known})")
        elif not option.accepts(value):
            raise ValueError(f"{name}: {row.name} supports {option.allows()}; got {reprlib.repr(value)}")
