"""GGUF: llama.cpp's block formats."""

from quantmill.recipe.method_row import Memory, Method, steady
from quantmill.recipe.options import MethodOptions
from quantmill.recipe.programs import LLAMA_CPP, LM_STUDIO, OLLAMA, VLLM, ran, read

# Type -> nominal bit width, bits of a weight in its blocks (ggml-common.h); mixed types (`_M`, `_L`) also hold wider tensors.
_TYPES = {
    "F32": (32, 32), "F16": (16, 16), "BF16": (16, 16), "Q8_0": (8, 8.5), "Q6_K": (6, 6.5625), "Q5_K_M": (5, 5.5),
    "Q5_K_S": (5, 5.5), "Q5_1": (5, 6), "Q5_0": (5, 5.5), "Q4_K_M": (4, 4.5), "Q4_K_S": (4, 4.5), "Q4_1": (4, 5),
    "Q4_0": (4, 4.5), "Q3_K_L": (3, 3.4375), "Q3_K_M": (3, 3.4375), "Q3_K_S": (3, 3.4375), "Q2_K": (2, 2.625),
    "IQ4_XS": (4, 4.25), "IQ4_NL": (4, 4.5), "IQ3_M": (3, 3.4375), "IQ3_S": (3, 3.4375), "IQ3_XS": (3, 3.25),
    "IQ3_XXS": (3, 3.0625), "IQ2_M": (2, 2.5625), "IQ2_S": (2, 2.5625), "IQ2_XS": (2, 2.3125), "IQ2_XXS": (2, 2.0625),
    "IQ1_M": (1, 1.75), "IQ1_S": (1, 1.5625), "TQ2_0": (2, 2.0625), "TQ1_0": (1, 1.6875),
}  # fmt: skip

METHOD = Method(
    name="gguf",
    position=6,
    label="GGUF",
    title="llama.cpp's block formats, converted once and quantized by llama.cpp itself.",
    source="llama.cpp, docs in ggml-org/llama.cpp/tools/quantize",
    types=tuple(_TYPES),
    bits_of_type={kind: bits for kind, (bits, _) in _TYPES.items()},
    unmade_types=("IQ3_XS", "IQ3_XXS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"),
    unmade_why="needs an importance matrix, which is not made here yet",
    choices=MethodOptions,
    calibrated=False,
    format="gguf",
    runtime="llama_cpp",
    thread_dependent=False,
    processor_dependent=False,
    needs=("conversion",),
    engines=("llama-cpp-python", "gguf"),
    programs=(
        ran(LLAMA_CPP),
        read(OLLAMA),
        read(LM_STUDIO),
        read(VLLM, devices=("cuda",), needs="vllm-gguf-plugin 0.0.5", plugin=True),
    ),
    fine_tuning="no",
    devices=("cpu",),
    rule_bits=(2, 3, 4, 5, 6, 8, 16),
    deterministic=True,
    stored_bits=lambda _bits, kind, _options: _TYPES[kind][1],
    memory=Memory(libraries=3e8, per_weight=2.2),
    cost=steady(0.5),
)
