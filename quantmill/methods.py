"""METHODS: what every quantization method takes and makes, one row of facts each.

A recipe is checked against these rows, `quantmill methods` prints them and keys are made from them. The work itself is in
`tasks/quantizers/`, one module a row.
"""

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

MethodName = Literal["baseline", "bitsandbytes", "gptq", "awq", "hqq", "autoround", "gguf"]
GGUFType = Literal[
    "F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0",
    "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K",
]  # fmt: skip
TypeName = Literal[GGUFType, "int8", "nf4", "fp4", "bf16"]
Bits = Literal[1, 2, 3, 4, 8, 16]
GroupSize = Literal[-1, 32, 64, 128]
Format = Literal["safetensors", "gguf"]
RuntimeName = Literal["transformers", "llama_cpp", "hqq"]
OptionValue = int | float | bool | str


class Option(BaseModel):
    """One thing that a method lets its user choose, beside its bits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="The field of a variant request that sets it.")
    default: OptionValue = Field(description="What a request that does not name it gets.")
    allowed: tuple[OptionValue, ...] = Field(default=(), description="The values allowed; empty: see the range.")
    minimum: float = Field(default=0.0, description="The least value of a number, excluded.")
    maximum: float = Field(default=1.0, description="The greatest value of a number, excluded.")
    suffix: str = Field(default="", description="What another value than the default adds to the variant's name.")

    def accepts(self, value: object) -> bool:
        """Return whether `value` is one that this option allows."""
        if self.allowed:
            return any(value == known and type(value) is type(known) for known in self.allowed)
        return isinstance(value, int | float) and not isinstance(value, bool) and self.minimum < value < self.maximum

    def allows(self) -> str:
        """Return in words what is allowed."""
        if self.allowed:
            return ", ".join(str(value).lower() if isinstance(value, bool) else str(value) for value in self.allowed)
        return f"a number between {self.minimum:g} and {self.maximum:g}"


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
    format: Format = Field(default="safetensors", description="The artifact's file format.")
    runtime: RuntimeName = Field(default="transformers", description="The library that loads the artifact.")
    engines: tuple[str, ...] = Field(description="Packages whose locked versions are part of the key.")
    revision: int = Field(default=1, description="Raised when our module makes other bytes from the same input.")
    thread_dependent: bool = Field(default=False, description="Its tensors depend on the number of threads.")
    devices: tuple[str, ...] = Field(default=("cpu", "cuda"), description="Device classes that it quantizes on.")
    deterministic: bool = Field(default=False, description="Equal input gave equal bytes when it was tested.")
    built: bool = Field(default=True, description="Whether this release can run it.")

    def option(self, name: str) -> Option | None:
        """Return the option called `name`, or None."""
        return next((option for option in self.options if option.name == name), None)


_GROUP_SIZE = Option(name="group_size", default=64, allowed=get_args(GroupSize))
_TRANSFORMERS = ("torch", "transformers", "safetensors")

METHODS: dict[str, Method] = {
    row.name: row
    for row in (
        Method(
            name="baseline",
            title="The weights as they are, in bf16: what every other variant is compared with.",
            source="no quantization",
            types=("bf16",),
            engines=(),
            deterministic=True,
        ),
        Method(
            name="bitsandbytes",
            title="LLM.int8() and the 4-bit types of QLoRA; quantizes at load time, no calibration.",
            source="Dettmers et al. 2022, arXiv:2208.07339; Dettmers et al. 2023, arXiv:2305.14314",
            bits=(8, 4),
            types=("int8", "nf4", "fp4"),
            options=(Option(name="double_quant", default=True, allowed=(True, False), suffix="single"),),
            engines=("bitsandbytes", "accelerate", *_TRANSFORMERS),
            deterministic=True,
        ),
        Method(
            name="gptq",
            title="Layer by layer least squares on calibration text (GPTQModel).",
            source="Frantar et al. 2022, arXiv:2210.17323",
            bits=(2, 3, 4, 8),
            options=(
                _GROUP_SIZE,
                Option(name="desc_act", default=False, allowed=(True, False), suffix="act"),
                Option(name="sym", default=True, allowed=(True, False), suffix="asym"),
                Option(name="damp_percent", default=0.05, suffix="damp"),
            ),
            calibrated=True,
            thread_dependent=True,
            engines=("gptqmodel", "optimum", *_TRANSFORMERS),
            deterministic=True,
        ),
        Method(
            name="awq",
            title="Activation-aware scaling before rounding.",
            source="Lin et al. 2023, arXiv:2306.00978",
            bits=(4,),
            options=(_GROUP_SIZE,),
            calibrated=True,
            engines=("gptqmodel", *_TRANSFORMERS),
            built=False,
        ),
        Method(
            name="hqq",
            title="Half-quadratic optimisation of the zero points, no calibration.",
            source="Badri and Shaji 2023, mobiusml.github.io/hqq_blog",
            bits=(8, 4, 3, 2, 1),
            options=(_GROUP_SIZE,),
            runtime="hqq",
            engines=("hqq", *_TRANSFORMERS),
            built=False,
        ),
        Method(
            name="autoround",
            title="Rounding learned by signed gradient descent on calibration text.",
            source="Cheng et al. 2023, arXiv:2309.05516",
            bits=(2, 3, 4, 8),
            options=(_GROUP_SIZE,),
            calibrated=True,
            engines=("auto-round", *_TRANSFORMERS),
            built=False,
        ),
        Method(
            name="gguf",
            title="llama.cpp's block formats, converted once and quantized by llama.cpp itself.",
            source="llama.cpp, docs in ggml-org/llama.cpp/tools/quantize",
            types=get_args(GGUFType),
            converted=True,
            format="gguf",
            runtime="llama_cpp",
            engines=("llama-cpp-python", "gguf"),
            devices=("cpu",),
            deterministic=True,
        ),
    )
}

BITS_OF_TYPE: dict[str, int] = {"bf16": 16, "int8": 8, "nf4": 4, "fp4": 4, "F32": 32, "F16": 16, "BF16": 16}
"""The nominal bit width of a named type; GGUF's Qn types say it in their names."""


def nominal_bits(type_name: str) -> int:
    """Return the nominal bit width of a named type: 4 for `Q4_K_M`, 8 for `int8`."""
    return BITS_OF_TYPE[type_name] if type_name in BITS_OF_TYPE else int(type_name[1])
