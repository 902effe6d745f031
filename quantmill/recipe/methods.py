"""METHODS: what every quantization method takes and makes, one row of facts each.

A recipe is checked against these rows, `quantmill methods` prints them and keys are made from them. The work itself is in
`tasks/quantize/methods/`, one module a row.
"""

from typing import get_args

from quantmill.recipe.method_row import (
    AS_IT_IS,
    ComputeType,
    DeviceMap,
    ExportFormat,
    GGUFType,
    GroupSize,
    Method,
    Option,
)

_GROUP_SIZE = Option(name="group_size", default=64, allowed=get_args(GroupSize))
_KERNEL_GROUPS = Option(name="group_size", default=64, allowed=(32, 64, 128))  # AWQ's kernels take no whole row
_SYM = Option(name="sym", default=True, allowed=(True, False), suffix="asym")
_LIMIT = r"(\d+|cpu)=\d+(\.\d+)?[MG]iB"
_MAX_MEMORY = Option(
    name="max_memory", default=None, pattern=rf"{_LIMIT}(,{_LIMIT})*", words="such as 0=20GiB,1=20GiB", named=False
)
_TRANSFORMERS = ("torch", "transformers", "safetensors")
_FOUR_BIT = ("nf4", "fp4")
_PEFT = "LoRA through peft"

METHODS: dict[str, Method] = {
    row.name: row
    for row in (
        Method(
            name="baseline",
            title="The weights as they are, in bf16: what every other variant is compared with.",
            source="no quantization",
            types=("bf16",),
            engines=(),
            loaders=("transformers", "vLLM"),
            fine_tuning="yes",
            deterministic=True,
        ),
        Method(
            name="bitsandbytes",
            title="LLM.int8() and the 4-bit types of QLoRA; quantizes at load time, no calibration.",
            source="Dettmers et al. 2022, arXiv:2208.07339; Dettmers et al. 2023, arXiv:2305.14314",
            bits=(8, 4),
            types=("int8", *_FOUR_BIT),
            options=(
                Option(name="double_quant", default=True, allowed=(True, False), types=_FOUR_BIT, suffix="single"),
                Option(name="compute_dtype", default="bfloat16", allowed=get_args(ComputeType), types=_FOUR_BIT),
                Option(name="threshold", default=6.0, minimum=0.0, maximum=1000.0, types=("int8",), suffix="t"),
                Option(name="device_map", default=None, allowed=get_args(DeviceMap), named=False),
                _MAX_MEMORY,
            ),
            engines=("bitsandbytes", "accelerate", *_TRANSFORMERS),
            loaders=("transformers",),
            fine_tuning=_PEFT,
            rule_bits=(16,),
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
                _SYM,
                Option(name="damp_percent", default=0.05, minimum=0.0001, maximum=0.9999, suffix="damp"),
            ),
            calibrated=True,
            thread_dependent=True,
            processor_dependent=True,
            arithmetics=("bfloat16", "float32"),
            engines=("gptqmodel", "optimum", *_TRANSFORMERS),
            loaders=("transformers", "gptqmodel"),
            fine_tuning=_PEFT,
            rule_bits=(2, 3, 4, 8, 16),
            deterministic=True,
        ),
        Method(
            name="awq",
            title="Activation-aware scaling before rounding (GPTQModel).",
            source="Lin et al. 2023, arXiv:2306.00978",
            bits=(4,),
            options=(_KERNEL_GROUPS, Option(name="zero_point", default=True, allowed=(True, False), suffix="sym")),
            calibrated=True,
            thread_dependent=True,
            processor_dependent=True,
            arithmetics=("bfloat16",),  # packing an fp32 model fails at the end
            engines=("gptqmodel", *_TRANSFORMERS),
            loaders=("transformers", "gptqmodel"),
            fine_tuning=_PEFT,
            deterministic=True,
        ),
        Method(
            name="hqq",
            title="Half-quadratic optimisation of the zero points, no calibration.",
            source="Badri and Shaji 2023, mobiusml.github.io/hqq_blog",
            bits=(8, 4, 3, 2, 1),
            options=(_GROUP_SIZE, Option(name="axis", default=1, allowed=(0, 1), suffix="axis")),
            runtime="hqq",
            engines=("hqq", *_TRANSFORMERS),
            loaders=("hqq, by the lines in the artifact's README.md",),
            rule_bits=(1, 2, 3, 4, 8, 16),
            deterministic=True,
        ),
        Method(
            name="autoround",
            title="Rounding learned by signed gradient descent on calibration text.",
            source="Cheng et al. 2023, arXiv:2309.05516",
            bits=(2, 3, 4, 8),
            options=(
                _GROUP_SIZE,
                _SYM,
                Option(name="iterations", default=200, minimum=0, maximum=10000, whole=True, suffix="i"),
                Option(name="learning_rate", default=0.005, minimum=1e-6, maximum=1.0, suffix="lr"),
                Option(name="minmax_learning_rate", default=0.005, minimum=1e-6, maximum=1.0, suffix="mlr"),
                Option(name="samples", default=0, minimum=0, maximum=65536, whole=True, suffix="n"),
                Option(name="sequence_length", default=0, minimum=0, maximum=131072, whole=True, suffix="s"),
                Option(name="batch_size", default=8, minimum=1, maximum=1024, whole=True, suffix="b"),
                Option(name="low_memory", default=True, allowed=(True, False), suffix="fast"),
                Option(name="export_format", default="auto_round", allowed=get_args(ExportFormat)),
                Option(name="device_map", default=None, allowed=("auto",), named=False),
            ),
            calibrated=True,
            thread_dependent=True,
            processor_dependent=True,
            arithmetics=("bfloat16", "float32"),
            engines=("auto-round", *_TRANSFORMERS),
            loaders=("transformers with auto-round",),
            rule_bits=(2, 3, 4, 8, 16),
            deterministic=True,
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
            loaders=("llama.cpp",),
            devices=("cpu",),
            rule_bits=(2, 3, 4, 5, 6, 8, 16),
            deterministic=True,
        ),
        Method(
            name="imported",
            title="A checkpoint that was quantized elsewhere (GPTQ, AWQ, AutoRound, bitsandbytes, GGUF), its files as they are.",
            source="no quantization",
            options=(
                Option(name="source", default="", pattern=r"[^\x00-\x1f]+", words="a model folder or a .gguf file"),
            ),
            format=AS_IT_IS,
            engines=(),
            loaders=("what loads its method's",),
            fine_tuning="as its method",
            deterministic=True,
        ),
    )
}

IMATRIX_TYPES = ("IQ3_XS", "IQ3_XXS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S")
"""GGUF types that llama.cpp makes with an importance matrix only."""
BITS_OF_TYPE: dict[str, int] = {"bf16": 16, "int8": 8, "nf4": 4, "fp4": 4, "F32": 32, "F16": 16, "BF16": 16}
"""The nominal bit width of a named type; GGUF's Qn types say it in their names."""


def nominal_bits(type_name: str) -> int:
    """Return the nominal bit width of a named type: 4 for `Q4_K_M`, 8 for `int8`, 2 for `IQ2_M`."""
    if type_name in BITS_OF_TYPE:
        return BITS_OF_TYPE[type_name]
    return int(type_name.lstrip("IQT")[0])
