"""The trace gives the model's logits back, for plain, scaled and soft-capped heads, or is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import transformers

from quantmill.errors import Gibberish, TraceMismatch
from tasks.evaluate import score, trace
from tasks.evaluate.trace import Head, Trace, Transform
from tasks.metrics import arrays as metrics
from tasks.metrics.arrays import Floats, Ints
from tasks.runtimes.protocol import Machine
from tasks.runtimes.transformers import load

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
    (tmp_path / "first").mkdir()
    scores, divergence = score._score_baseline(opened, ids, tmp_path / "first", lambda *_: None)
    assert abs(divergence) < 1e-6
    assert abs(numpy.concatenate([part.kl for part in scores])).max() < 1e-5
    made = trace.load(tmp_path / "first")
    hidden, head = numpy.stack([made.inputs(window, slice(0, 31)) for window in range(2)]), made.head
    assert hidden.dtype == numpy.float16
    (tmp_path / "out").mkdir()
    trace.save(Trace(ids, hidden, head), tmp_path / "out")
    again = trace.load(tmp_path / "out")
    assert again.head.transform == head.transform
    assert (again.head.transform == Transform()) == (kind.startswith(("llama", "phi")))
    independent = getattr(transformers, model_name).from_pretrained(tmp_path / "model", dtype=torch.float32)
    with torch.inference_mode():
        wanted = independent(torch.from_numpy(ids).long()).logits.numpy()
    for window in range(2):
        logits = again.head.logits(again.inputs(window, slice(0, 31)))
        numpy.testing.assert_allclose(logits, wanted[window, :-1], atol=0.02, rtol=0.01)


class Fake:
    """A model that is its head alone, on known inputs: windows are tokens that look them up."""

    def __init__(self, inputs: Floats, factor: float = 1.0, scale: float = 1.0, compute_dtype: str = "float32") -> None:
        weight = RNG.standard_normal((50, inputs.shape[1])).astype(numpy.float32) * numpy.float32(scale)
        self.compute_dtype, self._inputs, self._head = compute_dtype, inputs, Head(weight, None, Transform())
        self.made = self._head.logits(inputs) * numpy.float32(factor)

    def head(self) -> Head:
        return self._head

    def reader(self, head: Head) -> Any:
        return head.logits

    def traced_pieces(self, ids: Ints) -> Iterator[tuple[Floats, Floats]]:
        for part in numpy.split(ids, (2,)):
            yield self._inputs[part], self.made[part]


def windows(count: int = 2) -> Ints:
    return numpy.arange(4, dtype=numpy.int32)[None].repeat(count, 0)


def score_fake(model: Fake, ids: Ints, out: Path) -> tuple[list[metrics.Scores], float]:
    return score._score_baseline(model, ids, out, lambda *_: None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("compute_dtype", "factor", "limit"), [("float32", 1.01, "1e-06"), ("bfloat16", 1.5, "0.005")])
def test_a_trace_that_does_not_give_the_logits_is_refused(
    compute_dtype: str, factor: float, limit: str, tmp_path: Path
) -> None:
    """The limit is the arithmetic's: fp32 gives them back, a head in bf16 is off by 4e-4."""
    inputs = RNG.standard_normal((4, 8)).astype(numpy.float32)
    with pytest.raises(TraceMismatch, match=f"{compute_dtype}.* at most {limit}"):
        score_fake(Fake(inputs, factor, compute_dtype=compute_dtype), windows(), tmp_path)
    score_fake(Fake(inputs, 1.01, compute_dtype="bfloat16"), windows(), tmp_path)


def test_inputs_that_fp16_cannot_hold_are_kept_in_fp32(tmp_path: Path) -> None:
    """Also where only a later window holds them; what was scored before stays as it was scored."""
    small = RNG.standard_normal((2, 8)).astype(numpy.float32)
    model = Fake(numpy.concatenate([small, small * 1e6, small]), scale=1e-5)
    score_fake(model, windows(1), tmp_path)
    assert trace.load(tmp_path).inputs(0, slice(0, 3)).dtype == numpy.float32
    late = numpy.array([[4, 5, 4, 5], [0, 1, 2, 3]], numpy.int32)
    scores, _ = score_fake(model, late, tmp_path)
    kept = trace.load(tmp_path).inputs(1, slice(0, 3))
    numpy.testing.assert_array_equal(kept, model._inputs[:3])
    assert sum(len(part.nll) for part in scores) == 6


@pytest.mark.parametrize("value", [numpy.nan, numpy.inf])
def test_a_logit_that_is_no_number_is_gibberish(value: float, tmp_path: Path) -> None:
    model = Fake(RNG.standard_normal((6, 8)).astype(numpy.float32))
    late = numpy.array([[4, 5, 4, 5], [0, 1, 2, 3]], numpy.int32)
    model.made[2, 3] = -numpy.inf
    score_fake(model, late, tmp_path)
    model.made[2, 3] = value
    with pytest.raises(Gibberish, match="window 1 is NaN or infinite at position 2"):
        score_fake(model, late, tmp_path)


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


@pytest.mark.parametrize("kind", MODELS)
def test_a_long_window_is_read_in_pieces(kind: str, tmp_path: Path) -> None:
    """The decoder reads the whole window; the head reads a few positions at a time, with equal results."""
    config_name, model_name, extra = MODELS[kind]
    torch.manual_seed(0)
    getattr(transformers, model_name)(getattr(transformers, config_name)(**(SHAPE | extra))).save_pretrained(tmp_path)
    opened = load(tmp_path, MACHINE, context=32, scoring=True)
    ids = RNG.integers(0, 320, 29).astype(numpy.int32)
    whole, widths = opened.logits(ids), list[int]()
    head = opened.model.get_output_embeddings()
    head.register_forward_pre_hook(lambda _, inputs: widths.append(inputs[0].shape[1]))
    pieces = [piece.clone() for piece in opened.pieces(ids, 8)]
    assert widths == [1, 8, 8, 8, 5], "the decoder's own pass asks for one position"
    numpy.testing.assert_allclose(torch.cat(pieces).numpy(), whole, rtol=1e-5, atol=1e-5)
    traced = [(inputs, logits.clone()) for inputs, logits in opened.traced_pieces(ids, 8)]
    numpy.testing.assert_allclose(torch.cat([logits for _, logits in traced]).numpy(), whole, rtol=1e-5, atol=1e-5)
    ((inputs, _),) = opened.traced_pieces(ids)
    numpy.testing.assert_allclose(numpy.concatenate([part for part, _ in traced]), inputs, rtol=1e-5, atol=1e-5)
    numpy.testing.assert_allclose(opened.logits(ids), whole, rtol=1e-5, atol=1e-5)  # the model is as it was
