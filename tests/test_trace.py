"""The trace gives the model's logits back, for plain, scaled and soft-capped heads, or is refused."""

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import transformers

from quantmill.errors import Gibberish, TraceMismatch
from tasks import score, trace
from tasks.runtimes.protocol import Machine
from tasks.runtimes.transformers import load
from tasks.trace import Head, Trace, Transform

RNG = numpy.random.default_rng(0)
MACHINE = Machine(device="cpu", threads=2, hardware="")
SHAPE = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "initializer_range": 0.5,
}
MODELS = {
    "llama, tied": ("LlamaConfig", "LlamaForCausalLM", {"tie_word_embeddings": True}),
    "gemma 2, soft-capped": ("Gemma2Config", "Gemma2ForCausalLM", {"final_logit_softcapping": 5.0}),
    "granite, divided": ("GraniteConfig", "GraniteForCausalLM", {"logits_scaling": 8.0}),
    "cohere, multiplied": ("CohereConfig", "CohereForCausalLM", {"logit_scale": 0.25}),
    "phi, with a bias": ("PhiConfig", "PhiForCausalLM", {"num_key_value_heads": 4}),
}


@pytest.mark.parametrize("kind", MODELS)
def test_logits_come_back(kind: str, tmp_path: Path) -> None:
    config_name, model_name, extra = MODELS[kind]
    torch.manual_seed(0)
    model = getattr(transformers, model_name)(getattr(transformers, config_name)(**(SHAPE | extra)))
    if kind.startswith("phi"):
        torch.nn.init.normal_(model.lm_head.bias)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "model")
    opened = load(tmp_path / "model", MACHINE, context=32, scoring=True)
    ids = RNG.integers(0, 320, (2, 32)).astype(numpy.int32)
    head, (inputs, logits) = opened.head(), opened.trace(ids[0])
    dtype, divergence = trace.narrowest(head, inputs, logits)
    assert dtype is numpy.float16
    assert abs(divergence) < 1e-6
    hidden = numpy.stack([opened.trace(window)[0].astype(dtype) for window in ids])
    (tmp_path / "out").mkdir()
    trace.save(Trace(ids, hidden, head), tmp_path / "out")
    again = trace.load(tmp_path / "out")
    assert again.head.transform == head.transform
    assert (again.head.transform == Transform()) == (kind.startswith(("llama", "phi")))
    independent = getattr(transformers, model_name).from_pretrained(tmp_path / "model", dtype=torch.float32)
    with torch.inference_mode():
        wanted = independent(torch.from_numpy(ids).long()).logits.numpy()
    for window in range(2):
        numpy.testing.assert_allclose(again.logits(window), wanted[window], atol=0.02, rtol=0.01)


def test_a_trace_that_does_not_give_the_logits_is_refused() -> None:
    head = Head(RNG.standard_normal((50, 8)).astype(numpy.float32), None, Transform())
    inputs = RNG.standard_normal((4, 8)).astype(numpy.float32)
    with pytest.raises(TraceMismatch, match="at most 1e-06"):
        trace.narrowest(head, inputs, head.logits(inputs) * numpy.float32(1.1))


def test_inputs_that_fp16_cannot_hold_are_kept_in_fp32() -> None:
    head = Head(RNG.standard_normal((50, 8)).astype(numpy.float32) * numpy.float32(1e-5), None, Transform())
    inputs = RNG.standard_normal((4, 8)).astype(numpy.float32) * numpy.float32(1e6)
    assert trace.narrowest(head, inputs, head.logits(inputs))[0] is numpy.float32


@pytest.mark.parametrize("value", [numpy.nan, numpy.inf])
def test_a_logit_that_is_no_number_is_gibberish(value: float) -> None:
    logits = numpy.zeros((4, 5), numpy.float32)
    logits[2, 3] = value
    with pytest.raises(Gibberish, match="window 7 is NaN or infinite at position 2"):
        score._sound(logits, 7)
    logits[2, 3] = -numpy.inf
    assert score._sound(logits, 7) is logits


def test_a_trace_of_other_windows_is_refused(tmp_path: Path) -> None:
    ids = numpy.zeros((1, 4), numpy.int32)
    head = Head(numpy.zeros((5, 2), numpy.float32), None, Transform())
    other: Any = Trace(ids + 1, numpy.zeros((1, 3, 2), numpy.float16), head)
    with pytest.raises(ValueError, match="other token windows"):
        score._score(None, ids, other, lambda *_: None)  # type: ignore[arg-type]


def test_a_folder_that_lacks_a_tensor_is_not_made_up(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE)).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.down_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks model\.layers\.1\.mlp\.down_proj\.weight \(1 in all\)"):
        load(tmp_path, MACHINE, context=32, scoring=True)
