"""Packed layers opened for scoring have the weights of their format's definition, computed in float64."""

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import load_file

from quantmill.records.artifact import Artifact
from tests.tasks.quantize.bench import Bench

pytestmark = pytest.mark.slow

LAYER = "model.layers.0.self_attn.q_proj"
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def shifted(packed: torch.Tensor, bits: int) -> Any:
    """Return the numbers in each 32-bit word, lowest bits first, along a new last axis."""
    words = packed.numpy().view(numpy.uint32).astype(numpy.uint64)
    return numpy.stack([(words >> (bits * place)) & (2**bits - 1) for place in range(32 // bits)], axis=-1).astype(
        float
    )


def gptq(part: dict[str, torch.Tensor], bits: int) -> Any:
    """arXiv:2210.17323 as AutoGPTQ stores it: rows packed along the input, zero points less one."""
    rows = shifted(part["qweight"], bits).transpose(0, 2, 1).reshape(-1, part["qweight"].shape[1])
    zeros = shifted(part["qzeros"], bits).reshape(part["qzeros"].shape[0], -1) + 1
    groups = part["g_idx"].long().numpy() if "g_idx" in part else numpy.arange(len(rows)) // (len(rows) // len(zeros))
    return ((rows - zeros[groups]) * part["scales"].double().numpy()[groups]).T


def awq(part: dict[str, torch.Tensor], bits: int) -> Any:
    """arXiv:2306.00978, GEMM: columns packed along the output, in the order of AutoAWQ's kernel."""

    def columns(packed: torch.Tensor) -> Any:
        found = shifted(packed, bits)
        return found[..., numpy.argsort(AWQ_ORDER)].reshape(len(found), -1)

    rows, zeros = columns(part["qweight"]), columns(part["qzeros"])
    groups = numpy.arange(len(rows)) // (len(rows) // len(zeros))
    return ((rows - zeros[groups]) * part["scales"].double().numpy()[groups]).T


@pytest.mark.parametrize(
    ("method", "formula"), [("gptq-4bit-g64", gptq), ("awq-4bit-g64", awq), ("autoround-4bit-g64-i1", gptq)]
)
def test_a_packed_layer_is_its_format_s_arithmetic(bench: Bench, method: str, formula: Any, tmp_path: Path) -> None:
    from tasks.runtimes import transformers
    from tasks.runtimes.protocol import Machine

    artifact: Artifact = bench.make(bench.jobs[method])
    bench.store.fetch(artifact.files, tmp_path / "folder")
    tensors = load_file(tmp_path / "folder" / "model.safetensors")
    part = {name.removeprefix(f"{LAYER}."): tensor for name, tensor in tensors.items() if name.startswith(LAYER)}
    loaded = transformers.load(tmp_path / "folder", Machine("cpu", 1, ""), 64, True)
    layer = loaded.model.get_submodule(LAYER)
    assert type(layer) is torch.nn.Linear
    assert layer.weight.dtype == torch.float32
    numpy.testing.assert_allclose(layer.weight.double().numpy(), formula(part, 4), rtol=1e-6, atol=1e-9)
