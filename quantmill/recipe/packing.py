"""How the weights of a quantized checkpoint are packed, from its config or its GGUF header."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from quantmill.errors import SourceError

Format = Literal["safetensors", "gguf"]
_WIDEST = 16
_LARGEST_GROUP = 1 << 20


class Packing(BaseModel):
    """The packing of a quantized checkpoint, and the method whose libraries load it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str = Field(pattern=r"^[a-z][a-z0-9]*$", description="The method whose libraries load the checkpoint.")
    bits: int = Field(ge=1, le=64, description="Nominal bit width.")
    type: str = Field(default="", pattern=r"^\w*$", description="`nf4`, `Q4_K_M`; empty: the bit width is enough.")
    group_size: int = Field(default=0, description="Weights that share a scale; -1: a whole row; 0: not stated.")
    mixed: bool = Field(default=False, description="Whether single layers have another bit width.")

    @property
    def label(self) -> str:
        """Its part of a variant's name: `gptq-4bit-g64`, `bitsandbytes-nf4`, `q4_k_m`."""
        if self.method == "gguf":
            return self.type.lower()
        group = {0: "", -1: "-grow"}.get(self.group_size, f"-g{self.group_size}")
        return f"{self.method}-{self.type or f'{self.bits}bit'}{group}"

    @property
    def scheme(self) -> str:
        """Its name as the `scheme` of an artifact's tensors."""
        return self.type or self.method

    @property
    def format(self) -> Format:
        """The file format of its weights."""
        return "gguf" if self.method == "gguf" else "safetensors"


def read_groups(method: str, said: Mapping[str, Any]) -> Packing:
    """Return the packing that `quantization_config` states, for methods with groups that share a scale.

    Raises:
        SourceError: the config states no valid bit width, or an impossible group size.
    """
    bits, group = said.get("bits"), said.get("group_size")
    if type(bits) is not int or not 1 <= bits <= _WIDEST:
        name = said.get("quant_method", method)
        raise SourceError(f"quantized with {name} already, and its config states no bits: {bits!r}")
    if type(group) is int and group != -1 and not 0 <= group <= _LARGEST_GROUP:
        raise SourceError(f"group_size: {str(group)[:80]}: -1, or at most {_LARGEST_GROUP}")
    mixed = bool(said.get("dynamic") or said.get("extra_config"))
    return Packing(method=method, bits=bits, group_size=group if type(group) is int else 0, mixed=mixed)
