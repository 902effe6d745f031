"""What a row of METHODS is made of: the facts of a method and the choices that it leaves to its user."""

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

MethodName = Literal["baseline", "bitsandbytes", "gptq", "awq", "hqq", "autoround", "gguf", "imported"]
GGUFType = Literal[
    "F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0",
    "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K", "IQ4_XS", "IQ4_NL", "IQ3_M", "IQ3_S", "IQ3_XS", "IQ3_XXS", "IQ2_M", "IQ2_S",
    "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "TQ2_0", "TQ1_0",
]  # fmt: skip
TypeName = Literal[GGUFType, "int8", "nf4", "fp4", "bf16"]
Bits = Literal[1, 2, 3, 4, 8, 16]
GroupSize = Literal[-1, 32, 64, 128]
ComputeType = Literal["bfloat16", "float16", "float32"]
ExportFormat = Literal["auto_round", "auto_gptq", "auto_awq"]
DeviceMap = Literal["auto", "balanced", "balanced_low_0", "sequential"]
Format = Literal["safetensors", "gguf"]
AS_IT_IS: Literal["as it is"] = "as it is"
RuntimeName = Literal["transformers", "llama_cpp", "hqq", "gptqmodel"]
OptionValue = int | float | bool | str


class Option(BaseModel):
    """One thing that a method lets its user choose, beside its bits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="The field of a variant request that sets it.")
    default: OptionValue | None = Field(description="What a request that does not name it gets; None: nothing is said.")
    allowed: tuple[OptionValue, ...] = Field(default=(), description="The values allowed; empty: see the range.")
    minimum: float = Field(default=0.0, description="The least value of a number.")
    maximum: float = Field(default=1.0, description="The greatest value of a number.")
    whole: bool = Field(default=False, description="Whether a number must be whole.")
    pattern: str = Field(default="", description="The regular expression of a text.")
    words: str = Field(default="", description="What the texts are that fit the pattern.")
    named: bool = Field(default=True, description="Whether another value than the default is told by a variant's name.")
    types: tuple[str, ...] = Field(default=(), description="The method's types that have it; empty: all.")
    suffix: str = Field(default="", description="What another value than the default adds to the variant's name.")

    def accepts(self, value: object) -> bool:
        """Return whether `value` is one that this option allows."""
        if self.pattern:
            return isinstance(value, str) and re.fullmatch(self.pattern, value) is not None
        if self.allowed:
            return any(value == known and type(value) is type(known) for known in self.allowed)
        kinds = int if self.whole else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool) and self.minimum <= value <= self.maximum

    def allows(self) -> str:
        """Return in words what is allowed."""
        if self.pattern:
            return self.words
        if self.allowed:
            return ", ".join(str(value).lower() if isinstance(value, bool) else str(value) for value in self.allowed)
        return f"a {'whole ' if self.whole else ''}number from {self.minimum:g} to {self.maximum:g}"

    def label(self, value: OptionValue) -> str:
        """Return what a value other than the default adds to the variant's name."""
        if isinstance(value, bool):
            return self.suffix
        return value if isinstance(value, str) else f"{self.suffix}{value:g}"


class Method(BaseModel):
    """The facts of one method."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: MethodName = Field(description="Its name in recipes, module names and keys.")
    title: str = Field(description="What it does, in a line.")
    source: str = Field(description="The paper or the code that defines it.")
    bits: tuple[int, ...] = Field(default=(), description="Bit widths that a recipe may name.")
    types: tuple[str, ...] = Field(default=(), description="Named types, where a bit width does not say enough.")
    options: tuple[Option, ...] = Field(default=(), description="What else a recipe may choose.")
    calibrated: bool = Field(default=False, description="Whether the calibration set changes its result.")
    converted: bool = Field(default=False, description="Whether it starts from the GGUF conversion of the model.")
    format: Format | Literal["as it is"] = Field(default="safetensors", description="The artifact's file format.")
    runtime: RuntimeName = Field(default="transformers", description="The library that loads the artifact.")
    engines: tuple[str, ...] = Field(description="Packages whose locked versions are part of the key.")
    revision: int = Field(default=1, description="Raised when our module makes other bytes from the same input.")
    thread_dependent: bool = Field(default=False, description="Its tensors depend on the number of threads.")
    processor_dependent: bool = Field(default=False, description="Its tensors depend on the processor's class.")
    arithmetics: tuple[ComputeType, ...] = Field(
        default=(), description="Arithmetic that its engine can be told to work in; empty: the engine's own."
    )
    devices: tuple[str, ...] = Field(default=("cpu", "cuda"), description="Device classes that it quantizes on.")
    deterministic: bool = Field(default=False, description="Equal input gave equal bytes when it was tested.")
    loaders: tuple[str, ...] = Field(
        description="Programs that were seen to load artifacts of the method and generate."
    )
    fine_tuning: str = Field(default="no", description="How an artifact can be trained further, or no.")
    rule_bits: tuple[int, ...] = Field(default=(), description="Bit widths that a rule of `layers` may name.")

    def has(self, option: Option, kind: str | None) -> bool:
        """Return whether variants of type `kind` take the option."""
        return not option.types or kind in option.types

    def option(self, name: str) -> Option | None:
        """Return the option called `name`, or None."""
        return next((option for option in self.options if option.name == name), None)
