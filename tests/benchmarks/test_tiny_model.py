"""The small trained model is complete, kept, better than unigrams, and worse the fewer bits it has."""

from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from benchmarks import tiny_model
from benchmarks.tiny_training import Training, add_outliers
from quantmill.recipe.recipe import ModelRequest
from tasks.metrics import arrays as metrics
from tasks.source import places as sources
from tasks.tokenizer import check as tokenizer_check

ROOT = Path(__file__).resolve().parents[2]


def load(folder: Path) -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.slow
def test_the_folder_is_a_model_with_llama_cpp_s_tokenizer(trained: Path) -> None:
    assert sorted(path.name for path in trained.iterdir()) == [
        "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip
    assert (
        sources.open_source(ModelRequest(source=str(trained)), trained.parent / "home").inspect().architecture.name
        == "LlamaForCausalLM"
    )
    assert tokenizer_check.compare(trained, sources.locate(tiny_model.SOURCE)) is None
    assert "seconds" not in tiny_model.make(trained, Training()), "what is there is not made again"


@pytest.mark.slow
def test_damage_shows_in_order(trained: Path) -> None:
    windows = tiny_model.read_windows(trained)
    whole = tiny_model.perplexity(load(trained), windows)
    assert whole < 0.6 * metrics.unigram_perplexity(windows[:, 1:])
    ratio = {}
    for bits in (8, 4, 3, 2):
        model = load(trained)
        tiny_model.round_to_nearest(model, bits)
        ratio[bits] = tiny_model.perplexity(model, windows) / whole
    assert ratio[8] == pytest.approx(1, abs=0.01)
    assert 1.005 < ratio[4] < 1.1 < ratio[3] < ratio[2]
    assert ratio[2] > 1.5


@pytest.mark.slow
def test_it_does_not_repeat_one_token(trained: Path) -> None:
    prompt = torch.from_numpy(tiny_model.read_windows(trained)[:1]).long()
    made = load(trained).generate(prompt, max_new_tokens=32, min_new_tokens=32, do_sample=False)[0, prompt.shape[1] :]
    assert len(made.unique()) > 2


def test_outliers_change_the_weights_and_not_the_function() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    model, ids = LlamaForCausalLM(config).eval(), torch.arange(48)[None]
    before, weight = model(input_ids=ids).logits, model.model.layers[0].mlp.down_proj.weight.clone()
    add_outliers(model, Training(hidden=32, intermediate=64))
    assert torch.equal(model(input_ids=ids).logits, before)
    assert not torch.equal(model.model.layers[0].mlp.down_proj.weight, weight)


def test_a_folder_of_someone_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit, match="was not made by this command"):
        tiny_model.make(tmp_path, Training(), force=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_the_recipe_evaluates_what_training_left_out() -> None:
    recipe = yaml.safe_load((ROOT / "deployments" / "recipes" / "tiny.yaml").read_text(encoding="utf-8"))
    assert recipe["evaluation"] == tiny_model.EVALUATION.model_dump()
    assert recipe["calibration"]["source"] == recipe["evaluation"]["source"]
