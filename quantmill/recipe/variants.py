"""Variants: every choice of a method made. `variant_request` makes them of lists."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from quantmill.files import keys
from quantmill.recipe.layer_rules import LayerRule
from quantmill.recipe.method_row import (
    AS_IT_IS,
    ComputeType,
    DeviceMap,
    ExportFormat,
    Format,
    Method,
    MethodName,
    RuntimeName,
)
from quantmill.recipe.methods import METHODS
from quantmill.recipe.packing import Packing

_FORBID = ConfigDict(frozen=True, extra="forbid")


class VariantSpec(BaseModel):
    """One variant: every choice of its method made; what the method does not know is None."""

    model_config = _FORBID

    method: MethodName = Field(description="A row of METHODS.")
    bits: int = Field(description="Nominal bit width.")
    type: str | None = Field(default=None, description="Named type: `nf4`, `Q4_K_M`.")
    group_size: int | None = Field(default=None, description="Weights that share a scale; -1: a whole row.")
    double_quant: bool | None = Field(default=None, description="Quantize the scales as well.")
    compute_dtype: ComputeType | None = Field(default=None, description="Arithmetic of the loaded 4-bit layers.")
    threshold: float | None = Field(default=None, description="Activations above it stay in 16 bits (LLM.int8()).")
    desc_act: bool | None = Field(default=None, description="Quantize columns by falling activation.")
    sym: bool | None = Field(default=None, description="Symmetric grid, no zero point.")
    damp_percent: float | None = Field(default=None, description="Share of the Hessian's mean diagonal added to it.")
    zero_point: bool | None = Field(default=None, description="Asymmetric grid, with a zero point.")
    axis: int | None = Field(default=None, description="Axis along which weights share a scale; 1: along the input.")
    iterations: int | None = Field(default=None, description="Steps of signed gradient descent a block.")
    learning_rate: float | None = Field(default=None, description="Step size of the rounding.")
    minmax_learning_rate: float | None = Field(default=None, description="Step size of the range.")
    samples: int | None = Field(default=None, description="Calibration windows used; 0: all.")
    sequence_length: int | None = Field(default=None, description="Tokens used of each window; 0: all.")
    batch_size: int | None = Field(default=None, description="Windows a step.")
    low_memory: bool | None = Field(default=None, description="Keep only the block at work in memory.")
    export_format: ExportFormat | None = Field(default=None, description="How the artifact is packed.")
    layers: tuple[LayerRule, ...] = Field(default=(), description="Layers that get another bit width.")
    device_map: DeviceMap | None = Field(default=None, description="How layers are spread; None: on the one device.")
    max_memory: str | None = Field(default=None, description="What each device may hold: `0=20GiB,1=20GiB`.")
    source: str | None = Field(default=None, description="Where a finished checkpoint lies, until it was looked at.")
    packing: Packing | None = Field(default=None, description="How the finished checkpoint is packed.")
    checkpoint: str | None = Field(default=None, description="The digest of its files.")

    @property
    def row(self) -> Method:
        """The method's facts."""
        return METHODS[self.method]

    @property
    def maker(self) -> Method:
        """The facts of the method that packed the weights: of a checkpoint taken as it is, not `imported`."""
        return METHODS[self.packing.method] if self.packing else self.row

    @property
    def format(self) -> Format:
        """The artifact's file format."""
        form = self.maker.format
        return "safetensors" if form == AS_IT_IS else form  # before it was looked at

    def found(self, packing: Packing, digest: str) -> "VariantSpec":
        """Return the same variant by what lies at its source: where that was does not matter from here on."""
        return self.model_copy(update={"source": None, "packing": packing, "checkpoint": digest, "bits": packing.bits})

    @property
    def name(self) -> str:
        """The variant's name, unique within a recipe: `gptq-4bit-g64`, `gguf-q4_k_m`, `bitsandbytes-nf4`."""
        if self.packing:
            return f"{self.method}-{self.packing.label}"
        if self.source is not None:
            return " ".join(filter(None, (self.method, self.source)))
        parts = [self.method, self.type.lower() if self.type else f"{self.bits}bit"]
        if self.group_size is not None:
            parts.append("grow" if self.group_size == -1 else f"g{self.group_size}")
        for option in self.row.options:
            value = getattr(self, option.name)
            if option.named and option.name != "group_size" and value is not None and value != option.default:
                parts.append(option.label(value))
        if self.layers:
            parts.append("mix" + keys.digest([rule.model_dump() for rule in self.layers])[:6])
        return "-".join(parts)

    def runtime(self, experts: int) -> RuntimeName:
        """Return the library that loads the artifact of a model with so many experts a layer.

        transformers knows one bit width for a GPTQ model, and holds the experts of a layer in one tensor, with no place for
        GPTQ's and AWQ's matrix for each; GPTQModel does both.
        """
        method, mixed = self.maker.name, self.packing.mixed if self.packing else bool(self.layers)
        alone = (method == "gptq" and (mixed or experts)) or (method == "awq" and experts)
        return "gptqmodel" if alone else self.maker.runtime

    def canonical(self) -> dict[str, Any]:
        """Return the choices that the method knows, for keys: a later option of another method changes no key."""
        return self.model_dump(exclude_none=True, exclude=None if self.layers else {"layers"}, mode="json")
