"""The baseline: the model's own weights in bf16."""

from quantmill.recipe.method_row import Memory, Method, steady
from quantmill.recipe.options import MethodOptions
from quantmill.recipe.programs import TRANSFORMERS, VLLM, ran, read

METHOD = Method(
    name="baseline",
    position=0,
    label="the baseline",
    title="The unquantized weights in bf16; every other variant is compared with them.",
    source="no quantization",
    types=("bf16",),
    bits_of_type={"bf16": 16},
    default_types=("bf16",),
    choices=MethodOptions,
    calibrated=False,
    format="safetensors",
    runtime="transformers",
    thread_dependent=False,
    processor_dependent=False,
    engines=(),
    programs=(
        ran(TRANSFORMERS),
        ran(VLLM, devices=("cpu",)),
        read(VLLM, devices=("cuda",)),
    ),
    fine_tuning="yes",
    deterministic=True,
    stored_bits=lambda bits, _kind, _options: bits,
    memory=Memory(libraries=7e8, per_weight=2.5),
    cost=steady(1),
)
