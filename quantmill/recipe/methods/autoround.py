"""AutoRound (arXiv:2309.05516), through auto-round."""

from collections.abc import Sequence
from typing import Literal

from quantmill.recipe.layer_rules import LayerRule
from quantmill.recipe.method_row import Memory, Method, grouped_bits
from quantmill.recipe.options import DEVICE_MAP, GROUP_SIZE, SYMMETRIC, GroupSize, MethodOptions, choice
from quantmill.recipe.programs import TRANSFORMERS, VLLM, ran, read


class Options(MethodOptions):
    """The options of auto-round."""

    group_size: GroupSize = GROUP_SIZE
    sym: bool = SYMMETRIC
    iterations: int = choice(
        200, "Steps per block; 0: round to nearest, with tuned ranges.", suffix="i", ge=0, le=10000, example=200
    )
    learning_rate: float = choice(0.005, "Step size of the rounding.", suffix="lr", ge=1e-6, le=1.0, example=0.005)
    minmax_learning_rate: float = choice(
        0.005,
        "Step size of the range.",
        title="Learning rate of the range",
        suffix="mlr",
        ge=1e-6,
        le=1.0,
        example=0.005,
    )
    samples: int = choice(0, "Number of calibration windows to use; 0: all.", suffix="n", ge=0, le=65536, example=128)
    sequence_length: int = choice(
        0, "Number of tokens to use of each window; 0: all.", suffix="s", ge=0, le=131072, example=512
    )
    batch_size: int = choice(8, "Windows per step.", suffix="b", ge=1, le=1024, example=8)
    low_memory: bool = choice(True, "Keep only the current block in memory.", suffix="fast")
    export_format: Literal["auto_round", "auto_gptq", "auto_awq"] = choice(
        "auto_round", "Packing format of the artifact."
    )
    device_map: Literal["auto"] | None = DEVICE_MAP

    def require(self, bits: int, layers: Sequence[LayerRule]) -> None:
        """Raise ValueError if the export format cannot hold these bits or layer rules."""
        if layers and self.export_format != "auto_round":
            raise ValueError(
                f"layers: the format {self.export_format} has one bit width for all layers; auto_round has several"
            )
        if self.export_format == "auto_awq" and bits != 4:
            raise ValueError(f"export_format: auto_awq holds 4 bits, got bits {bits}")

    def cheaper(self) -> "tuple[Options, str] | None":
        """Return the options with one window per step and only the current block in memory, or None."""
        if self.batch_size == 1:
            return None
        spare = self.model_copy(update={"batch_size": 1, "low_memory": True})
        return spare, f"batch_size 1 in place of {self.batch_size}"


def cost(options: Options) -> float:
    """Return the time of a variant over the time of nf4; the steps take most of it."""
    return 5 * (options.iterations or 20) / 20


METHOD = Method(
    name="autoround",
    position=5,
    label="AutoRound",
    title="Rounding learned by signed gradient descent on calibration text.",
    source="Cheng et al. 2023, arXiv:2309.05516",
    bits=(2, 3, 4, 8),
    default_bits=(4,),
    choices=Options,
    calibrated=True,
    format="safetensors",
    runtime="transformers",
    thread_dependent=True,
    processor_dependent=True,
    arithmetics=("bfloat16", "float32"),
    engines=("auto-round", "torch", "transformers", "safetensors"),
    programs=(
        ran(TRANSFORMERS, needs="auto-round"),
        read(VLLM, devices=("cuda",), mixed=(False,)),
        read(VLLM, devices=("cpu",), bits=(4,), symmetric=(True,), mixed=(False,), needs="AVX-512"),
    ),
    fine_tuning="no",
    rule_bits=(2, 3, 4, 8, 16),
    deterministic=True,
    stored_bits=grouped_bits,
    memory=Memory(libraries=8e8, per_weight=4),
    cost=cost,
    quant_method="auto-round",
)
