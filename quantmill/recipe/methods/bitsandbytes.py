"""bitsandbytes: LLM.int8() (arXiv:2208.07339) and QLoRA's nf4 and fp4 (arXiv:2305.14314)."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from quantmill.errors import SourceError
from quantmill.recipe.layer_rules import LayerRule
from quantmill.recipe.method_row import Memory, Method, steady
from quantmill.recipe.options import DEVICE_MAP, ComputeType, MethodOptions, choice
from quantmill.recipe.packing import Packing
from quantmill.recipe.programs import TRANSFORMERS, VLLM, ran

_FOUR_BIT = ("nf4", "fp4")
_LIMIT = r"(\d+|cpu)=\d+(\.\d+)?[MG]iB"


class Options(MethodOptions):
    """The options of bitsandbytes."""

    double_quant: bool = choice(
        True, "Quantize the scales too.", title="Double quantization", suffix="single", types=_FOUR_BIT
    )
    compute_dtype: ComputeType = choice(
        "bfloat16", "Arithmetic of the loaded layers.", title="Compute type", types=_FOUR_BIT
    )
    threshold: float = choice(
        6.0,
        "Activations above this threshold stay in 16 bits.",
        suffix="t",
        types=("int8",),
        ge=0.0,
        le=1000.0,
        example=6.0,
    )
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] | None = DEVICE_MAP
    max_memory: str | None = choice(
        None,
        "Memory limit of each device, with device_map: 0=20GiB,1=20GiB.",
        words="such as 0=20GiB,1=20GiB",
        named=False,
        pattern=rf"{_LIMIT}(,{_LIMIT})*",
        example="0=20GiB,cpu=48GiB",
    )

    def require(self, bits: int, layers: Sequence[LayerRule]) -> None:  # noqa: ARG002 (the same signature for every method)
        """Raise ValueError if `max_memory` is set without `device_map`."""
        if self.max_memory and not self.device_map:
            raise ValueError("max_memory: limits the devices of a device_map; set device_map too, for example to auto")


def stored_bits(bits: int, kind: str, options: Options) -> float:
    """Return the bits of a weight on disk.

    nf4 and fp4 have a 32-bit scale for 64 weights; double quantization makes it 8 bits, plus 32 bits for 256 scales.
    """
    if kind not in _FOUR_BIT:
        return bits
    return 4 + (8 / 64 + 32 / (64 * 256) if options.double_quant else 32 / 64)


def read_packing(said: Mapping[str, Any]) -> Packing:
    """Return the packing that a checkpoint's `quantization_config` states.

    Raises:
        SourceError: its 4-bit type is not supported.
    """
    if said.get("load_in_8bit"):
        return Packing(method=METHOD.name, bits=8, type="int8")
    kind = said.get("bnb_4bit_quant_type", "fp4")
    if kind not in _FOUR_BIT:  # the type becomes part of variant names
        raise SourceError(f"bnb_4bit_quant_type: {str(kind)[:80]!r}: {' and '.join(_FOUR_BIT)} are read")
    return Packing(method=METHOD.name, bits=4, type=kind)


METHOD = Method(
    name="bitsandbytes",
    position=1,
    label="bitsandbytes",
    title="LLM.int8() and the 4-bit types of QLoRA; quantizes at load time, no calibration.",
    source="Dettmers et al. 2022, arXiv:2208.07339; Dettmers et al. 2023, arXiv:2305.14314",
    bits=(8, 4),
    types=("int8", *_FOUR_BIT),
    bits_of_type={"int8": 8, "nf4": 4, "fp4": 4},
    default_types=("int8", "nf4"),
    type_of_bits={8: "int8", 4: "nf4"},
    choices=Options,
    calibrated=False,
    format="safetensors",
    runtime="transformers",
    thread_dependent=False,
    processor_dependent=False,
    engines=("bitsandbytes", "accelerate", "torch", "transformers", "safetensors"),
    programs=(
        ran(TRANSFORMERS),
        ran(VLLM, devices=("cpu",), needs="vllm-bnb-plugin 0.0.3", plugin=True),
    ),
    fine_tuning="LoRA through peft",
    rule_bits=(16,),
    leaves_experts=True,
    deterministic=True,
    stored_bits=stored_bits,
    memory=Memory(libraries=7e8, per_weight=2.5),
    cost=steady(1),
    quant_method="bitsandbytes",
    read_packing=read_packing,
    unpacks_whole=True,
)
