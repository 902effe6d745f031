"""The facts of one method, stated by its module; if a fact is missing, importing the module fails."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, computed_field, model_validator

from quantmill.recipe.options import ComputeType, MethodOptions, Option, facts_of
from quantmill.recipe.packing import Format, Packing, read_groups
from quantmill.recipe.programs import Loads

AS_IT_IS: Literal["as it is"] = "as it is"
StoredBits = Callable[[int, str, Any], float]
"""(nominal bits, type, the method's options) -> bits of a quantized weight on disk, scales and zero points included."""


class Memory(BaseModel):
    """The estimated memory of a quantization job, by which a pool is chosen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    libraries: float = Field(description="Bytes of the libraries.")
    per_weight: float = Field(description="Bytes per weight of the model.")


class Method(BaseModel):
    """The facts of one method."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9]*$", description="Its name in recipes, module names and keys.")
    position: int = Field(exclude=True, description="Its position in tables and menus.")
    label: str = Field(exclude=True, description="Its name in sentences.")
    title: str = Field(description="One line about the method.")
    source: str = Field(description="The paper or the code that defines it.")
    bits: tuple[int, ...] = Field(default=(), description="Bit widths that a recipe may name.")
    types: tuple[str, ...] = Field(default=(), description="Named types, if a bit width is not enough.")
    bits_of_type: dict[str, int] = Field(default={}, exclude=True, description="Type -> nominal bit width.")
    unmade_types: tuple[str, ...] = Field(
        default=(), exclude=True, description="Types that a recipe may not name yet; `unmade_why` says why."
    )
    unmade_why: str = Field(default="", exclude=True, description="What the types in `unmade_types` lack.")
    default_bits: tuple[int, ...] = Field(default=(), exclude=True, description="Bit widths of a request without any.")
    default_types: tuple[str, ...] = Field(default=(), exclude=True, description="Types of a request without any.")
    type_of_bits: dict[int, str] = Field(default={}, exclude=True, description="Bit width -> the type that it means.")
    choices: type[MethodOptions] = Field(exclude=True, description="The class of its options.")
    calibrated: bool = Field(description="Whether the calibration set changes its result.")
    needs: tuple[str, ...] = Field(default=(), description="Stages that must come before it: `conversion` to GGUF.")
    format: Format | Literal["as it is"] = Field(description="The artifact's file format.")
    runtime: str = Field(description="The library that loads the artifact.")
    runtime_of_mixed: str = Field(
        default="", exclude=True, description="The library if layers differ in bit width; empty: `runtime`."
    )
    runtime_of_experts: str = Field(
        default="", exclude=True, description="The library for models with experts; empty: `runtime`."
    )
    engines: tuple[str, ...] = Field(description="Packages whose locked versions are part of the key.")
    environment: str = Field(
        default="",
        exclude=True,
        description="The environment that it quantizes in (`environments/`); empty: the factory's.",
    )
    unasked_modules: dict[str, str] = Field(
        default={},
        exclude=True,
        description="Module that transformers always imports -> package whose jobs need the module.",
    )
    revision: int = Field(default=1, description="Number to raise when the method's module makes other bytes.")
    thread_dependent: bool = Field(description="Its tensors depend on the number of threads.")
    processor_dependent: bool = Field(description="Its tensors depend on the processor's class.")
    arithmetics: tuple[ComputeType, ...] = Field(
        default=(), description="Types of arithmetic that its engine accepts; empty: the engine chooses."
    )
    devices: tuple[str, ...] = Field(default=("cpu", "cuda"), description="Device classes that it quantizes on.")
    leaves_experts: bool = Field(
        default=False,
        exclude=True,
        description="Whether the experts of a layer are not quantized: only linear layers change.",
    )
    deterministic: bool = Field(description="Equal input gave equal bytes in a test.")
    programs: tuple[Loads, ...] = Field(exclude=True, description="Which programs load its variants, with evidence.")
    fine_tuning: str = Field(description="How an artifact can be trained further, or `no`.")
    rule_bits: tuple[int, ...] = Field(default=(), description="Bit widths that a rule of `layers` may name.")
    stored_bits: StoredBits = Field(exclude=True, description="Bits of a quantized weight on disk.")
    memory: Memory = Field(exclude=True, description="Estimated memory of its jobs.")
    cost: Callable[[Any], float] = Field(
        exclude=True,
        description="Its options -> time of a variant on SmolLM2-135M over the time of nf4, measuring included.",
    )
    quant_method: str = Field(
        default="",
        exclude=True,
        description="`quant_method` in the config.json of its checkpoints; empty: none is recognized.",
    )
    read_packing: Callable[[Mapping[str, Any]], Packing] | None = Field(
        default=None,
        exclude=True,
        description="Function that reads `quantization_config` of its checkpoints; None: `read_groups`.",
    )
    plain_backend: str = Field(
        default="",
        exclude=True,
        description="transformers' backend with layers in the stored packing, for unpacking; empty: its default.",
    )
    unpacks_whole: bool = Field(
        default=False, exclude=True, description="Whether transformers can unpack a whole model with `dequantize`."
    )

    @model_validator(mode="after")
    def _is_whole(self) -> "Method":
        """Raise ValueError if a type has no bit width, or a method with bits has no default."""
        if unknown := set(self.types) ^ set(self.bits_of_type):
            raise ValueError(f"bits_of_type: {min(unknown)}: every type needs its bit width, and no other")
        if self.bits and not (self.default_bits or self.default_types):
            raise ValueError("default_bits: a method with bits needs them")
        return self

    @computed_field(description="Its options.")  # type: ignore[prop-decorator]
    @cached_property
    def options(self) -> tuple[Option, ...]:
        """The facts of each option."""
        return facts_of(self.choices)

    @computed_field(description="Programs that load its artifacts, in words.")  # type: ignore[prop-decorator]
    @cached_property
    def loaders(self) -> tuple[str, ...]:
        """The programs that were seen to load its artifacts; `in part` means only some of its variants."""
        if not self.programs:
            return ("what loads its method's",)
        promised = [rule for rule in self.programs if rule.is_promise]
        names = dict.fromkeys(rule.program for rule in promised)
        return tuple(_in_words([rule for rule in promised if rule.program == name]) for name in names)

    @property
    def engines_beside(self) -> tuple[str, ...]:
        """The engines that are in the factory's environment, where every artifact is measured."""
        return () if self.environment else self.engines

    @property
    def widths(self) -> tuple[str, ...]:
        """The types or bit widths that a recipe may name, for tables."""
        return tuple(kind for kind in self.types or map(str, self.bits) if kind not in self.unmade_types)

    def has(self, option: Option, kind: str | None) -> bool:
        """Return whether variants of type `kind` take the option."""
        return not option.types or kind in option.types

    def option(self, name: str) -> Option | None:
        """Return the option called `name`, or None."""
        return next((option for option in self.options if option.name == name), None)

    def nominal_bits(self, kind: str) -> int:
        """Return the nominal bit width of a type: 4 for `Q4_K_M`, 8 for `int8`."""
        return self.bits_of_type[kind]

    def packing_of(self, said: Mapping[str, Any]) -> Packing:
        """Return the packing that `quantization_config` of one of its checkpoints states."""
        return self.read_packing(said) if self.read_packing else read_groups(self.name, said)

    def runtime_of(self, mixed: bool, experts: int) -> str:
        """Return the library that loads a variant of a model with `experts` experts per layer."""
        own = (self.runtime_of_mixed if mixed else "") or (self.runtime_of_experts if experts else "")
        return own or self.runtime


def grouped_bits(bits: int, _kind: str, options: Any) -> float:
    """Return a weight's bits if each group has a 16-bit scale and a zero point of the weights' width."""
    return bits + ((16 + bits) / options.group_size if options.group_size > 0 else 0)


def _in_words(rules: list[Loads]) -> str:
    """Return a program's name, with its needs and `in part` if it takes only some of a method's variants."""
    first = rules[0]
    name = f"{first.by.title} with {first.needs}" if first.needs else first.by.title
    return f"{name} in part" if all(rule.conditions for rule in rules) else name


def steady(cost: float) -> Callable[[Any], float]:
    """Return the cost function of a method whose options do not change the cost."""
    return lambda _: cost
