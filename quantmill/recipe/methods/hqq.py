"""HQQ (Badri and Shaji 2023), through the hqq package."""

import math
from typing import Literal

from quantmill.recipe.method_row import Memory, Method, steady
from quantmill.recipe.options import GROUP_SIZE, GroupSize, MethodOptions, choice
from quantmill.recipe.programs import Program, ran


class Options(MethodOptions):
    """The options of the hqq package."""

    group_size: GroupSize = GROUP_SIZE
    axis: Literal[0, 1] = choice(1, "1 groups weights along the input, 0 along the output.", suffix="axis")


def stored_bits(bits: int, _kind: str, options: Options) -> float:
    """Return the bits of a weight on disk.

    Scale and zero point of a group have 16 bits each; ten 3-bit weights share 32 bits. Along axis 0 the last 32 bits of a group
    may not be full.
    """
    if options.group_size == -1:
        return 3.2 if bits == 3 else bits
    group = options.group_size
    packed = bits if bits != 3 else 3.2 if options.axis else math.ceil(group / 10) * 32 / group
    return packed + 32 / group


METHOD = Method(
    name="hqq",
    position=4,
    label="HQQ",
    title="Half-quadratic optimisation of the zero points, no calibration.",
    source="Badri and Shaji 2023, mobiusml.github.io/hqq_blog",
    bits=(8, 4, 3, 2, 1),
    default_bits=(4,),
    choices=Options,
    calibrated=False,
    format="safetensors",
    runtime="hqq",
    thread_dependent=False,
    processor_dependent=False,
    engines=("hqq", "torch", "transformers", "safetensors"),
    unasked_modules={"hqq": "hqq"},
    programs=(ran(Program("hqq", "hqq", "0.2.8.post1", "2026-11")),),
    fine_tuning="no",
    rule_bits=(1, 2, 3, 4, 8, 16),
    leaves_experts=True,
    deterministic=True,
    stored_bits=stored_bits,
    memory=Memory(libraries=7e8, per_weight=2.5),
    cost=steady(1.7),
)
