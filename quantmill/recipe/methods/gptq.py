"""GPTQ (arXiv:2210.17323), through GPTQModel."""

from typing import Any

from quantmill.recipe.method_row import Memory, Method, grouped_bits, steady
from quantmill.recipe.options import GROUP_SIZE, SYMMETRIC, GroupSize, MethodOptions, choice
from quantmill.recipe.programs import GPTQMODEL, TRANSFORMERS, VLLM, ran, read


class Options(MethodOptions):
    """The options of GPTQ in GPTQModel."""

    group_size: GroupSize = GROUP_SIZE
    desc_act: bool = choice(
        False, "Quantize columns in order of falling activation.", title="Descending activation order", suffix="act"
    )
    sym: bool = SYMMETRIC
    damp_percent: float = choice(
        0.05,
        "Share of the Hessian's mean diagonal that is added to the diagonal.",
        title="Dampening",
        suffix="damp",
        ge=0.0001,
        le=0.9999,
        example=0.05,
    )


_MARLIN: dict[str, Any] = {
    "symmetric": (True,),
    "act_order": (False,),
    "group_size": (-1, 32, 64, 128),
    "mixed": (False,),
    "opened_by": ("transformers",),
}
"""What vLLM's GPTQ kernels take."""
_FUSED: dict[str, Any] = _MARLIN | {"mixed": (True,), "opened_by": ()}
"""The same with several widths. vLLM fuses q, k and v, and gate and up: the layers of each must agree."""

METHOD = Method(
    name="gptq",
    position=2,
    label="GPTQ",
    title="Layer by layer least squares on calibration text (GPTQModel).",
    source="Frantar et al. 2022, arXiv:2210.17323",
    bits=(2, 3, 4, 8),
    default_bits=(4,),
    choices=Options,
    calibrated=True,
    format="safetensors",
    runtime="transformers",
    thread_dependent=True,
    processor_dependent=True,
    arithmetics=("bfloat16", "float32"),
    # transformers supports neither layers of several bit widths nor experts in tensors of their own; GPTQModel does.
    runtime_of_mixed="gptqmodel",
    runtime_of_experts="gptqmodel",
    engines=("gptqmodel", "optimum", "torch", "transformers", "safetensors"),
    unasked_modules={"torchao": "gptqmodel"},
    programs=(
        ran(TRANSFORMERS, opened_by=("transformers",), mixed=(False,)),
        ran(GPTQMODEL),
        read(VLLM, devices=("cuda",), bits=(4, 8), **_MARLIN),
        read(VLLM, devices=("cuda",), bits=(4, 8), needs="one width for q, k, v and one for gate, up", **_FUSED),
        read(VLLM, devices=("cpu",), bits=(4,), needs="AVX-512", **_MARLIN),
    ),
    fine_tuning="LoRA through peft",
    rule_bits=(2, 3, 4, 8, 16),
    deterministic=True,
    stored_bits=grouped_bits,
    memory=Memory(libraries=8e8, per_weight=4),
    cost=steady(2.3),
    quant_method="gptq",
    plain_backend="gptq_torch",
)
