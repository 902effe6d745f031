"""Bytes before a run: pure functions of what is known from headers."""

import math
from collections.abc import Iterable
from pathlib import Path

from quantmill.files.safetensors_header import BITS, Tensor, read_header
from quantmill.recipe.variants import VariantSpec
from quantmill.records.artifact import Architecture, Origin, Preview

_FIXED_BITS = 16 + 16 + 16 + 32  # snapshot, baseline, GGUF conversion, F32 for llama.cpp's noise floor
_HEAD_BYTES = 4
_BLOCK_BITS = {
    "F32": 32, "F16": 16, "BF16": 16, "Q8_0": 8.5, "Q6_K": 6.5625, "Q5_K": 5.5, "Q5_1": 6, "Q5_0": 5.5, "Q4_K": 4.5,
    "Q4_1": 5, "Q4_0": 4.5, "Q3_K": 3.4375, "Q2_K": 2.625, "IQ4_XS": 4.25, "IQ4_NL": 4.5, "IQ3": 3.4375,
    "TQ2_0": 2.0625, "TQ1_0": 1.6875,
}  # fmt: skip
# Bytes of the libraries, and bytes per weight: bf16 as loaded, and what the method holds beside it.
_MEMORY = {
    "baseline": (7e8, 2.5), "bitsandbytes": (7e8, 2.5), "hqq": (7e8, 2.5), "gptq": (8e8, 4), "awq": (8e8, 4),
    "autoround": (8e8, 4), "gguf": (3e8, 2.2),
}  # fmt: skip
_SCORED = ((6e8, 2.5), (3e8, 2.2))  # the same while scoring, in torch and in llama.cpp; fp32 only where there is more
# Seconds on SmolLM2-135M over those of nf4, measuring included.
_COST = {
    "baseline": 1,
    "bitsandbytes": 1,
    "hqq": 1.7,
    "gptq": 2.3,
    "awq": 3,
    "autoround": 5,
    "gguf": 0.5,
    "imported": 1,
}
_FLOATS = ("BF16", "F16", "F32", "F64")
SCORED_ROWS = 512
"""Positions whose logits are held at once while a variant is scored: of a vocabulary of 152,000 they take 311 MB."""
_SLACK_BITS = 4  # scales, and embeddings and head that stay in bf16: what small models have most of


def stored_bits(spec: VariantSpec) -> float:
    """Return the bits that a quantized weight takes on disk, with its share of scales and zero points.

    From the formats' definitions: a GPTQ, AWQ or AutoRound group holds a 16-bit scale and a zero point of the weights'
    width; HQQ's scale and zero point have 16 bits each, and ten 3-bit weights lie in 32 bits (along axis 0
    the last of a group's words is not full); nf4 and fp4 have a 32-bit
    scale for 64 weights, or an 8-bit one and 32 bits for 256 of these (arXiv:2305.14314). GGUF: the bytes of a block
    (ggml-common.h); mixed types (`_M`, `_L`) hold wider tensors as well.
    """
    group = spec.group_size if spec.group_size and spec.group_size > 0 else math.inf
    if spec.method == "gguf":
        return _BLOCK_BITS[str(spec.type).removesuffix("_S").removesuffix("_M").removesuffix("_L")]
    if spec.method == "hqq":
        packed = {3: 3.2 if spec.axis else math.ceil(group / 10) * 32 / group}.get(spec.bits, spec.bits)
        return packed + 32 / group
    if spec.type in ("nf4", "fp4"):
        return 4 + (8 / 64 + 32 / (64 * 256) if spec.double_quant else 32 / 64)
    return spec.bits + ((16 + spec.bits) / group if spec.group_size else 0)


def disk_bytes(origin: Origin | Preview, specs: Iterable[VariantSpec], scored_tokens: int = 0) -> int:
    """Return an upper estimate of the bytes that a run leaves on disk, the download and scratch included.

    A source that is quantized already is taken as the 4 bits per weight that most have. `scored_tokens`: positions of the
    evaluation windows, for each of which the baseline's trace keeps the head's input.
    """
    weights = origin.size_bytes * 8 // (4 if origin.architecture.packing else 16)
    bits = _FIXED_BITS + sum(spec.bits + _SLACK_BITS for spec in specs)
    shape = origin.architecture
    trace = (shape.vocabulary_size + scored_tokens) * shape.hidden_size * _HEAD_BYTES
    return origin.download_bytes + weights * bits // 8 + trace


def count_parameters(weights: list[Path]) -> int:
    """Return the number of weights in safetensors files, from their headers."""
    return sum(math.prod(tensor.shape) for path in weights for tensor in read_header(path).values())


def fp32_bytes(weights: list[Path], packed_bits: int | None) -> int:
    """Return the bytes that weights take once their floats are widened to fp32.

    Args:
        weights: safetensors files.
        packed_bits: how wide packed weights are that are unpacked to fp32 too; None: they stay packed.
    """
    tensors = {name: tensor for path in weights for name, tensor in read_header(path).items()}
    floats = sum(4 * math.prod(tensor.shape) for tensor in tensors.values() if tensor.dtype in _FLOATS)
    if packed_bits is None:
        packed = {name: tensor for name, tensor in tensors.items() if tensor.dtype not in _FLOATS}
        return floats + sum(math.prod(tensor.shape) * BITS[tensor.dtype] // 8 for tensor in packed.values())
    names = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    return floats + sum(4 * _unpacked(tensors, name, packed_bits) for name in names)


def _unpacked(tensors: dict[str, Tensor], name: str, bits: int) -> int:
    """Return the weights in a packed layer: from what GPTQ says of each of its inputs, else from the bits."""
    index, scales = tensors.get(f"{name}.g_idx"), tensors.get(f"{name}.scales")
    if index and scales:
        return index.shape[0] * scales.shape[-1]
    packed = tensors[f"{name}.qweight"]
    return math.prod(packed.shape) * BITS[packed.dtype] // bits


def scoring_bytes(length: int, vocabulary: int, hidden: int) -> int:
    """Return about how many bytes scoring holds beside the weights, for windows of `length` tokens.

    The baseline's head in fp32; three pieces of logits, the model's, the next one and the baseline's; a few rows of them in
    float64; what the layers hold of a window. Measured with a head that was there already and a fused attention, at 512 wide
    and a vocabulary of 49,152: 360 MB at 2,048 tokens and 385 MB at 4,096, where this says 519 and 620. Attention that is
    not fused (Gemma 2) holds more.
    """
    logits = 3 * min(length, SCORED_ROWS) * vocabulary * 4 + 5 * 8 * vocabulary * 8
    return vocabulary * hidden * _HEAD_BYTES + logits + 24 * length * hidden * 4


def memory_bytes(spec: VariantSpec, parameters: int, shape: Architecture | None = None, length: int = 0) -> int:
    """Return about how many bytes of memory a variant's largest job holds: what a pool is chosen by, not a promise.

    Args:
        spec: the variant.
        parameters: weights of the model.
        shape: the model's; None: what scoring holds beside the weights is left out.
        length: tokens of an evaluation window.

    A fixed part for the libraries, and bytes per weight. On SmolLM2-135M jobs that quantize held 0.8 to 1.3 GB with torch
    and 0.3 to 0.4 GB with llama.cpp; the estimate was 1.0 to 2.2 times that. Larger models were not tried.
    """
    libraries, per_weight = _MEMORY[spec.maker.name]
    if shape is None:
        return int(libraries + per_weight * parameters)
    in_llama_cpp = spec.runtime(shape.experts) == "llama_cpp"
    scored, beside = _SCORED[in_llama_cpp], scoring_bytes(length, shape.vocabulary_size, shape.hidden_size)
    if in_llama_cpp:  # keys and values in fp32; most models have a quarter as many heads for them
        beside += 2 * 4 * length * shape.layers * shape.hidden_size // 4
    return max(int(libraries + per_weight * parameters), int(scored[0] + scored[1] * parameters) + beside)


def cost(spec: VariantSpec) -> float:
    """Return about how long a variant takes beside others of its model, nf4 being 1: the longest start first."""
    return _COST[spec.method] * ((spec.iterations or 20) / 20 if spec.method == "autoround" else 1)
