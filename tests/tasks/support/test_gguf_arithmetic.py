"""Where llama.cpp computes otherwise than a config says: refused, marked, or caught by divergence."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks import architectures
from flows import conversions, jobs
from quantmill.recipe.recipe import GatePolicy, ModelRequest, Recipe, TokenRequest, VariantRequest
from quantmill.records.report import Outcome
from tasks.convert.long_text import LongText
from tasks.judge.gate import decide
from tasks.marks import marks_of
from tasks.model import architecture
from tasks.support import gguf_arithmetic
from tests import samples
from tests.line import Line
from tests.model_folders import compress, model_folder

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 1024, "head_dim": 32}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
LONG |= {"short_factor": [1.5] * 16, "long_factor": [3.0] * 16}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
SMALL = architectures._SHAPE | {
    "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
    "initializer_range": 0.12, "max_position_embeddings": 1024,
}  # fmt: skip
GEMMA = {"query_pre_attn_scalar": 32, "sliding_window": 64, "layer_types": ["full_attention", "sliding_attention"]}


def llama(**config: Any) -> dict[str, Any]:
    return LLAMA | config


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("Llama", llama(hidden_act="silu"), ""),
        ("Llama", llama(hidden_act="swish"), ""),
        ("Llama", llama(hidden_act="gelu"), "llama.cpp always computes silu in LlamaForCausalLM and ignores the config's hidden_act: gelu"),
        ("Gemma", {"model_type": "gemma", "hidden_act": "gelu"}, ""),  # an approximation of the same: the floor decides
        ("Llama", llama(rope_parameters=YARN), ""),
        ("Llama", llama(rope_parameters=YARN | {"attention_factor": 1.0}), "rope_parameters: attention_factor 1.0"),
        ("Llama", llama(rope_scaling={"type": "yarn", "factor": 4.0, "mscale": 0.7}), "rope_parameters: mscale 0.7"),
        ("Llama", llama(rope_parameters=YARN | {"truncate": False}), "truncate false"),
        ("DeepseekV2", {"model_type": "deepseek_v2", "rope_scaling": YARN | {"mscale": 0.7}}, ""),  # its converter reads that
        ("Llama", llama(rope_parameters=LONG), "drops the factors of rope_parameters: rope_type longrope"),
        ("Phi3", {"model_type": "phi3", "rope_parameters": LONG}, ""),
        ("Llama", llama(rope_parameters={"rope_type": "llama3", "factor": 8.0}), ""),
        ("Llama", llama(rope_parameters={"rope_type": "linear", "factor": 4.0}), ""),
        ("Gemma3", {"num_hidden_layers": 7, "sliding_window_pattern": 6}, ""),
        ("Gemma3", {"num_hidden_layers": 7, "sliding_window_pattern": 4}, "gives layers 6, 12, ... of Gemma3ForCausalLM full attention"),
        ("Gemma3", {"layer_types": GEMMA["layer_types"]}, "layer_types differ"),
        ("Gemma2", {"layer_types": ["sliding_attention", "full_attention"]}, ""),
    ],
)  # fmt: skip
def test_what_is_wrong_at_every_length(name: str, config: dict[str, Any], words: str) -> None:
    found = gguf_arithmetic.refusal(f"{name}ForCausalLM", config)
    assert words in found if words else not found


@pytest.mark.parametrize(
    ("name", "config", "end", "longer"),
    [
        ("Llama", {"max_position_embeddings": 8192}, 0, 0),
        ("Mistral", {"max_position_embeddings": 32768, "sliding_window": 4096}, 4096, 0),
        ("Mistral", {"max_position_embeddings": 4096, "sliding_window": 4096}, 0, 0),
        ("Mistral", {"max_position_embeddings": 4096, "sliding_window": None}, 0, 0),
        ("Mixtral", {"max_position_embeddings": 1024, "sliding_window": 64}, 64, 0),
        ("Qwen3", {"max_position_embeddings": 1024, "sliding_window": 64, "use_sliding_window": True}, 64, 0),
        ("Qwen3", {"max_position_embeddings": 1024, "sliding_window": 64, "use_sliding_window": False}, 0, 0),
        ("Qwen3", {"max_position_embeddings": 1024, "sliding_window": 64, "layer_types": ["full_attention"]}, 0, 0),
        ("Phi3", {"max_position_embeddings": 4096, "sliding_window": 2047}, 2047, 0),
        ("Gemma2", {"max_position_embeddings": 8192, "sliding_window": 4096}, 0, 4608),
        ("Gemma3", {"max_position_embeddings": 600, "sliding_window": 512}, 0, 600),
        ("Llama", llama(max_position_embeddings=131072, rope_parameters=YARN | {"original_max_position_embeddings": 8192}), 0, 8704),
        ("Llama", llama(max_position_embeddings=4096, rope_scaling={"type": "linear", "factor": 4.0}), 0, 1536),
        ("Llama", llama(max_position_embeddings=64, rope_parameters=DYNAMIC), 64, 0),
        ("Mistral", llama(sliding_window=256, rope_parameters=YARN), 256, 256),
    ],
)  # fmt: skip
def test_what_is_right_up_to_a_length(name: str, config: dict[str, Any], end: int, longer: int) -> None:
    found = gguf_arithmetic.right_up_to(f"{name}ForCausalLM", config)
    assert (found[0], gguf_arithmetic.longer_text(f"{name}ForCausalLM", config)) == (end, longer)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"hidden_act": "gelu"}, "hidden_act: gelu"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "attention_factor": 1.2}}, "rope_parameters: attention_factor 1.2"),
    ],
)  # fmt: skip
def test_a_recipe_is_refused_before_any_work(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    folder = model_folder(tmp_path / "model", config)
    code, error, _ = compress(
        tmp_path, {"model": {"source": str(folder)}, "variants": [{"method": "gguf", "type": "Q8_0"}]}
    )
    assert (code, error.count("\n")) == (2, 1), error
    assert words in error and "gguf-q8_0" in error


KINDS: dict[str, tuple[str, dict[str, Any], str]] = {
    "window": ("Mistral", {"sliding_window": 64}, "sliding_window: 64"),
    "pattern": ("Gemma3", GEMMA, "layer_types (sliding_window_pattern)"),
    "yarn": ("Llama", {"rope_parameters": YARN | {"attention_factor": 1.0}}, "attention_factor 1.0"),
    "ramp": ("Llama", {"rope_parameters": YARN | {"truncate": False}}, "truncate False"),
    "dynamic": ("Llama", {"max_position_embeddings": 64, "rope_parameters": DYNAMIC}, "rope_type dynamic"),
    "longrope": ("Llama", {"rope_parameters": LONG}, "rope_type longrope"),
    "gelu": ("Llama", {"hidden_act": "gelu"}, "hidden_act: gelu"),
}
RIGHT: dict[str, tuple[str, dict[str, Any], str]] = {
    "gemma3": ("Gemma3", {"query_pre_attn_scalar": 32, "sliding_window": 64}, ""),
}


def build(folder: Path, tokenizer: Path, family: str, config: dict[str, Any]) -> Path:
    """Write a small random model."""
    import torch
    import transformers

    kind = "Gemma3TextConfig" if family == "Gemma3" else f"{family}Config"
    torch.manual_seed(0)
    made = getattr(transformers, kind)(**(architectures._TOKENS | SMALL | config))
    getattr(transformers, f"{family}ForCausalLM")(made).to(torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2's tokenizer."""
    return architectures.save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, *RIGHT])
def test_the_divergence_alone_catches_each(
    tmp_path: Path, tokenizer: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of what is known is switched off."""
    from tasks.convert import compare_long
    from tasks.convert import converter as convert_gguf

    monkeypatch.setattr(gguf_arithmetic, "RULES", ())
    monkeypatch.setattr(gguf_arithmetic, "LIMITS", ())
    family, config, cause = (KINDS | RIGHT)[kind]
    folder = build(tmp_path / "model", tokenizer, family, config)
    name, said = f"{family}ForCausalLM", architecture.read_config(folder)
    assert not gguf_arithmetic.refusal(name, said)
    tokens = gguf_arithmetic.longer_text(name, said) or 128  # of gelu the evaluation windows
    convert_gguf.convert(folder, tmp_path / "model.gguf", lambda *_: None, name="m")
    (tmp_path / "work").mkdir()
    value = compare_long.compare(folder, tmp_path / "model.gguf", tokens, tmp_path / "work", 1, lambda *_: None)
    outcomes = judged(0.0, said, LongText(tokens=tokens, **value))
    message = outcomes["gguf-q8_0"].message
    assert cause in message and f"over a text of {tokens} tokens" in message if cause else not message


def plan() -> jobs.Plan:
    """A plan of one GGUF and one bitsandbytes variant."""
    request = TokenRequest(samples=8, sequence_length=64)
    variants = (VariantRequest(method="gguf", type="Q8_0"), VariantRequest(method="bitsandbytes", type="nf4"))
    recipe = Recipe(model=ModelRequest(source="./m"), variants=variants, evaluation=request)
    job = samples.job("x")
    windows = job.evaluation.model_copy(update={"request": request})
    return jobs.make_plan(recipe, job.snapshot, windows, windows, 1, {})


def judged(
    floor: float, config: dict[str, Any], checked: LongText | None = None, reference: str = "float32"
) -> dict[str, Outcome]:
    """Return the judged outcomes of a plan whose F32 GGUF shows this floor."""
    made, baseline = plan(), samples.outcome("baseline")
    assert baseline.report
    quality = baseline.report.quality.model_copy(update={"compute_dtype": reference, "mean_kl": 0.0})
    baseline = baseline.model_copy(update={"report": baseline.report.model_copy(update={"quality": quality})})
    outcomes = {job.name: samples.outcome(job.name) for job in made.variants}
    for job in made.floors.values():
        outcomes[job.name] = Outcome(
            name=job.name, artifact=samples.artifact(), report=samples.report(job.name, mean_kl=floor)
        )
    return conversions.judge(made, baseline, {"architectures": ["LlamaForCausalLM"]} | config, checked, outcomes)


@pytest.mark.parametrize(
    ("floor", "reference", "failed", "marks"),
    [
        (4e-7, "float32", False, ()),
        (1e-5, "float32", False, ()),
        (1.1e-5, "float32", False, ("noise floor 1.1e-05 over windows of 64 tokens",)),
        (1e-4, "float32", False, ("noise floor 1.0e-04 over windows of 64 tokens",)),
        (1.1e-4, "float32", True, ()),
        (float("nan"), "float32", True, ()),
        (1e-2, "bfloat16", False, ()),
        (1.1e-2, "bfloat16", True, ()),
    ],
)
def test_the_floor_marks_and_fails(floor: float, reference: str, failed: bool, marks: tuple[str, ...]) -> None:
    outcomes = judged(floor, {"hidden_act": "gelu"}, reference=reference)
    gguf, other = outcomes["gguf-q8_0"], outcomes["bitsandbytes-nf4"]
    assert (bool(gguf.error), gguf.marks) == (failed, marks)
    assert not other.error and not other.marks
    if failed:
        verdict = decide(gguf, samples.outcome("baseline"), GatePolicy())
        assert verdict.status == "failed" and "likely cause, in config.json: hidden_act: gelu" in verdict.reasons[0]
        assert "llama_cpp" not in jobs.noise_floor(plan(), samples.outcome("baseline"), outcomes)
    else:
        job = next(job for job in plan().variants if job.name == "gguf-q8_0")
        assert set(marks) <= set(marks_of(job, gguf, {}))


def test_what_could_not_be_checked_and_what_is_known_are_marks() -> None:
    config = {"architectures": ["MistralForCausalLM"], "sliding_window": 256, "max_position_embeddings": 1024}
    outcomes = judged(1e-7, config, LongText(tokens=256, why="time"))
    assert outcomes["gguf-q8_0"].marks == ("right up to 256 tokens (sliding_window)", "not checked past 64 tokens")
    assert not outcomes["bitsandbytes-nf4"].marks


def recipe(folder: Path) -> dict[str, Any]:
    """Return a recipe whose gates let any figures pass."""
    return {
        "model": {"source": str(folder)},
        "variants": [{"method": "gguf", "type": "Q8_0"}],
        "evaluation": {"samples": 3, "sequence_length": 128},
        "gates": {"max_perplexity_ratio": 1e6, "max_mean_kl": 1e6, "max_p99_kl": 1e6, "min_top1_agreement": 0},
        "publish": {"model": "m", "channel": "stable"},
    }


@pytest.mark.slow
def test_a_window_that_the_windows_pass_fails_the_gguf_through_the_command(tmp_path: Path, tokenizer: Path) -> None:
    folder = build(tmp_path / "model", tokenizer, "Mistral", {"sliding_window": 64})
    line = Line(tmp_path / "line", tmp_path / "home", recipe(folder))
    code, summary, _ = line.run()
    row = summary["variants"][0]
    assert (code, row["status"], row["manifest"]) == (3, "failed", None)
    assert "ConversionMismatch" in row["reasons"][0] and "sliding_window: 64" in row["reasons"][0]
    assert "llama_cpp" not in summary["noise_floor"]


@pytest.mark.slow
def test_a_longer_text_is_scored_once_through_the_command(tmp_path: Path, tokenizer: Path) -> None:
    """Plain YaRN is right, the window past 256 tokens is not: the longer text goes up to there."""
    folder = build(tmp_path / "model", tokenizer, "Mistral", {"sliding_window": 256, "rope_parameters": YARN})
    line = Line(tmp_path / "line", tmp_path / "home", recipe(folder))
    code, summary, started = line.run()
    row = summary["variants"][0]
    assert (code, row["status"]) == (0, "accepted"), row
    assert "right up to 256 tokens (sliding_window)" in row["marks"]
    assert not [mark for mark in row["marks"] if mark.startswith(("noise floor", "not checked"))]
    assert "long_text gguf" in started
    code, again, started = line.run()
    assert (code, started) == (0, []) and again["variants"][0]["marks"] == row["marks"]
