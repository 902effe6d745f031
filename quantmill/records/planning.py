"""Estimates of disk, memory and cost before a run: pure functions of headers and specs."""

import math
from collections.abc import Iterable
from pathlib import Path

from quantmill.files.safetensors_header import BITS, Tensor, read_header
from quantmill.recipe.recipe import VariantSpec
from quantmill.records.artifact import Architecture, Origin, Preview

_FIXED_BITS = 16 + 16 + 16 + 32  # snapshot, baseline, GGUF conversion, F32 for llama.cpp's noise floor
_HEAD_BYTES = 4
_SCORED = ((6e8, 2.5), (3e8, 2.2))  # fixed bytes, bytes per weight while scoring: in torch, in llama.cpp
_FLOATS = ("BF16", "F16", "F32", "F64")
SCORED_ROWS = 512
"""Positions whose logits are in memory at once during scoring: 311 MB for a vocabulary of 152,000."""
_SLACK_BITS = 4  # scales, and the embeddings and head that stay in bf16, a large share of small models


def stored_bits(spec: VariantSpec) -> float:
    """Return the bits that a quantized weight takes on disk, with its share of scales and zero points.

    The numbers follow from the formats, which the methods' modules cite. Mixed GGUF types (`_M`, `_L`) also hold wider tensors.
    """
    return spec.row.stored_bits(spec.bits, spec.type or "", spec.options)


def disk_bytes(origin: Origin | Preview, specs: Iterable[VariantSpec], scored_tokens: int = 0) -> int:
    """Return an upper estimate of the bytes that a run takes on disk, download and scratch included.

    A quantized source counts as 4 bits per weight, the most common width. `scored_tokens`: positions of the evaluation windows;
    the baseline's trace keeps the head's input for each of them.
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
    """Return the bytes that weights take after their floats are widened to fp32.

    Args:
        weights: safetensors files.
        packed_bits: bit width of packed weights that are unpacked to fp32 too; None: they stay packed.
    """
    tensors = {name: tensor for path in weights for name, tensor in read_header(path).items()}
    floats = sum(4 * math.prod(tensor.shape) for tensor in tensors.values() if tensor.dtype in _FLOATS)
    if packed_bits is None:
        packed = {name: tensor for name, tensor in tensors.items() if tensor.dtype not in _FLOATS}
        return floats + sum(math.prod(tensor.shape) * BITS[tensor.dtype] // 8 for tensor in packed.values())
    names = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    return floats + sum(4 * _unpacked(tensors, name, packed_bits) for name in names)


def _unpacked(tensors: dict[str, Tensor], name: str, bits: int) -> int:
    """Return the number of weights in a packed layer: from `g_idx` and `scales`, else from the bit width."""
    index, scales = tensors.get(f"{name}.g_idx"), tensors.get(f"{name}.scales")
    if index and scales:
        return index.shape[0] * scales.shape[-1]
    packed = tensors[f"{name}.qweight"]
    return math.prod(packed.shape) * BITS[packed.dtype] // bits


def scoring_bytes(length: int, vocabulary: int, hidden: int) -> int:
    """Return about how many bytes scoring needs beside the weights, for windows of `length` tokens.

    The estimate counts the baseline's head in fp32, three blocks of logits (the model's, the next block, the baseline's), a few
    rows of logits in float64, and the layers' activations of a window. Measured with the head in memory already and fused
    attention, hidden size 512 and vocabulary 49,152: 360 MB at 2,048 tokens and 385 MB at 4,096; the estimates are 519 and 620.
    Attention that is not fused (Gemma 2) needs more.
    """
    logits = 3 * min(length, SCORED_ROWS) * vocabulary * 4 + 5 * 8 * vocabulary * 8
    return vocabulary * hidden * _HEAD_BYTES + logits + 24 * length * hidden * 4


def memory_bytes(spec: VariantSpec, parameters: int, shape: Architecture | None = None, length: int = 0) -> int:
    """Return an estimate of the memory in bytes of a variant's largest job, for the choice of a pool.

    Args:
        spec: the variant.
        parameters: weights of the model.
        shape: the model's shape; None: leave out the memory that scoring needs beside the weights.
        length: tokens of an evaluation window.

    The estimate is a fixed part for the libraries plus bytes per weight. On SmolLM2-135M, quantizing took 0.8 to 1.3 GB with
    torch and 0.3 to 0.4 GB with llama.cpp; the estimate was 1.0 to 2.2 times that. Larger models were not tried.
    """
    libraries, per_weight = spec.maker.memory.libraries, spec.maker.memory.per_weight
    if shape is None:
        return int(libraries + per_weight * parameters)
    in_llama_cpp = spec.runtime(shape.experts) == "llama_cpp"
    scored, beside = _SCORED[in_llama_cpp], scoring_bytes(length, shape.vocabulary_size, shape.hidden_size)
    if in_llama_cpp:  # keys and values in fp32; most models have a quarter as many key-value heads
        beside += 2 * 4 * length * shape.layers * shape.hidden_size // 4
    return max(int(libraries + per_weight * parameters), int(scored[0] + scored[1] * parameters) + beside)


def cost(spec: VariantSpec) -> float:
    """Return the relative time that a variant of a model takes (nf4: 1); the longest start first."""
    return spec.row.cost(spec.options)
