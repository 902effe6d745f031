"""Bytes before a run: pure functions of what is known from headers."""

import math
from collections.abc import Iterable
from pathlib import Path

from quantmill.files.safetensors_header import BITS, Tensor, read_header
from quantmill.recipe.recipe import VariantSpec
from quantmill.records.artifact import Architecture, Origin, Preview

_FIXED_BITS = 16 + 16 + 16 + 32  # snapshot, baseline, GGUF conversion, F32 for llama.cpp's noise floor
_HEAD_BYTES = 4
_SCORED = ((6e8, 2.5), (3e8, 2.2))  # the same while scoring, in torch and in llama.cpp; fp32 only where there is more
_FLOATS = ("BF16", "F16", "F32", "F64")
SCORED_ROWS = 512
"""Positions whose logits are held at once while a variant is scored: of a vocabulary of 152,000 they take 311 MB."""
_SLACK_BITS = 4  # scales, and embeddings and head that stay in bf16: what small models have most of


def stored_bits(spec: VariantSpec) -> float:
    """Return the bits that a quantized weight takes on disk, with its share of scales and zero points.

    From the formats' definitions, which the methods' modules cite. Mixed GGUF types (`_M`, `_L`) hold wider tensors as well.
    """
    return spec.row.stored_bits(spec.bits, spec.type or "", spec.options)


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
    libraries, per_weight = spec.maker.memory.libraries, spec.maker.memory.per_weight
    if shape is None:
        return int(libraries + per_weight * parameters)
    in_llama_cpp = spec.runtime(shape.experts) == "llama_cpp"
    scored, beside = _SCORED[in_llama_cpp], scoring_bytes(length, shape.vocabulary_size, shape.hidden_size)
    if in_llama_cpp:  # keys and values in fp32; most models have a quarter as many heads for them
        beside += 2 * 4 * length * shape.layers * shape.hidden_size // 4
    return max(int(libraries + per_weight * parameters), int(scored[0] + scored[1] * parameters) + beside)


def cost(spec: VariantSpec) -> float:
    """Return about how long a variant takes beside others of its model, nf4 being 1: the longest start first."""
    return spec.row.cost(spec.options)
