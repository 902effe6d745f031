"""AWQ (arXiv:2306.00978), through GPTQModel."""

from typing import Literal

from quantmill.recipe.method_row import Memory, Method, grouped_bits, steady
from quantmill.recipe.options import GROUP_SIZE, MethodOptions, choice
from quantmill.recipe.programs import GPTQMODEL, TRANSFORMERS, VLLM, ran, read


class Options(MethodOptions):
    """The options of AWQ in GPTQModel; AWQ's kernels do not support a whole row as a group."""

    group_size: Literal[32, 64, 128] = GROUP_SIZE
    zero_point: bool = choice(True, "Asymmetric grid, with a zero point.", suffix="sym")


METHOD = Method(
    name="awq",
    position=3,
    label="AWQ",
    title="Activation-aware scaling before rounding (GPTQModel).",
    source="Lin et al. 2023, arXiv:2306.00978",
    bits=(4,),
    default_bits=(4,),
    choices=Options,
    calibrated=True,
    format="safetensors",
    runtime="transformers",
    thread_dependent=True,
    processor_dependent=True,
    arithmetics=("bfloat16",),  # packing an fp32 model fails at the end
    runtime_of_experts="gptqmodel",
    engines=("gptqmodel", "torch", "transformers", "safetensors"),
    programs=(
        ran(TRANSFORMERS, opened_by=("transformers",)),
        ran(GPTQMODEL),
        read(VLLM, devices=("cuda",), bits=(4,), opened_by=("transformers",)),
        read(VLLM, devices=("cpu",), bits=(4,), opened_by=("transformers",), needs="AVX-512"),
    ),
    fine_tuning="LoRA through peft",
    deterministic=True,
    stored_bits=grouped_bits,
    memory=Memory(libraries=8e8, per_weight=4),
    cost=steady(3),
    quant_method="awq",
    plain_backend="torch_awq",
)
