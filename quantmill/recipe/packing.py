"""How the weights of a finished checkpoint are packed: what its config or its GGUF header says."""

from pydantic import BaseModel, ConfigDict, Field

from quantmill.recipe.method_row import Format, MethodName


class Packing(BaseModel):
    """How a checkpoint that was quantized already is packed, and by which method's libraries it is loaded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: MethodName = Field(description="The row of METHODS whose libraries load it.")
    bits: int = Field(ge=1, le=64, description="Nominal bit width.")
    type: str = Field(default="", pattern=r"^\w*$", description="`nf4`, `Q4_K_M`; empty: the bits say enough.")
    group_size: int = Field(default=0, description="Weights that share a scale; -1: a whole row; 0: not stated.")
    mixed: bool = Field(default=False, description="Whether single layers have another width.")

    @property
    def label(self) -> str:
        """What it adds to a variant's name: `gptq-4bit-g64`, `bitsandbytes-nf4`, `q4_k_m`."""
        if self.method == "gguf":
            return self.type.lower()
        group = {0: "", -1: "-grow"}.get(self.group_size, f"-g{self.group_size}")
        return f"{self.method}-{self.type or f'{self.bits}bit'}{group}"

    @property
    def scheme(self) -> str:
        """What its matrices are, in the words of an artifact's account."""
        return self.type or self.method

    @property
    def format(self) -> Format:
        """The file format of its weights."""
        return "gguf" if self.method == "gguf" else "safetensors"
