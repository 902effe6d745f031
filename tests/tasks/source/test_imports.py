"""Which folders count as finished checkpoints, and which are refused before any work."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from quantmill.errors import QuantmillError, RecipeError, SourceError, TokenizerMismatch
from quantmill.recipe.packing import Packing
from quantmill.recipe.recipe import Recipe
from quantmill.recipe.recipe_file import parse_recipe
from tasks.model import packing
from tasks.quantize import imported
from tasks.source import download
from tests.model_folders import CONFIG, compress, model_folder

GPTQ = {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}


@pytest.mark.parametrize(
    ("said", "label", "mixed"),
    [
        (GPTQ["quantization_config"], "gptq-4bit-g128", False),
        (
            {"quant_method": "gptq", "bits": 3, "group_size": -1, "dynamic": {"+:x": {"bits": 8}}},
            "gptq-3bit-grow",
            True,
        ),
        ({"quant_method": "awq", "bits": 4}, "awq-4bit", False),
        ({"quant_method": "auto-round", "bits": 2, "group_size": 32}, "autoround-2bit-g32", False),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes-int8", False),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
            "bitsandbytes-nf4",
            False,
        ),
    ],
)
def test_a_config_says_how_it_is_packed(said: dict[str, Any], label: str, mixed: bool) -> None:
    found = packing.of_config({"quantization_config": said})
    assert found is not None
    assert (found.label, found.mixed, found.format) == (label, mixed, "safetensors")
    assert packing.of_config({}) is None


@pytest.mark.parametrize("said", [{"quant_method": "fp8"}, {"quant_method": "gptq", "bits": True}, {}])
def test_an_unknown_packing_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(SourceError, match=r"^quantized with .* already"):
        packing.of_config({"quantization_config": said})


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            {"quant_method": "bitsandbytes", "bnb_4bit_quant_type": "../../../tmp/x"},
            "'../../../tmp/x': nf4 and fp4 are",
        ),
        ({"quant_method": "bitsandbytes", "bnb_4bit_quant_type": ["nf4"]}, "nf4 and fp4 are read"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 10**300}, "-1, or at most 1048576"),
        ({"quant_method": "gptq", "bits": 4, "group_size": -7}, "group_size: -7: -1, or at most"),
    ],
)
def test_fault_20_what_a_config_says_becomes_a_part_of_names(said: dict[str, Any], words: str) -> None:
    """Of the variant, so of its log below the home, and of its place in the store."""
    with pytest.raises(SourceError) as raised:
        packing.of_config({"quantization_config": said})
    assert words in str(raised.value)


def test_a_gguf_without_tensors() -> None:
    with pytest.raises(SourceError, match="holds no tensor"):
        packing.of_gguf(None, [])


@pytest.mark.parametrize(
    ("file_type", "tensors", "label", "bits"),
    [
        (15, ["F32"], "q4_k_m", 4),
        (24, [], "iq1_s", 1),
        (0, [], "f32", 32),
        (None, ["Q8_0", "Q8_0", "F32"], "q8_0", 8),
        (1024, ["Q2_K"], "q2_k", 2),
    ],
)
def test_a_gguf_header_says_how_it_is_packed(file_type: int | None, tensors: list[str], label: str, bits: int) -> None:
    found = packing.of_gguf(file_type, tensors)
    assert (found.label, found.bits, found.format) == (label, bits, "gguf")


def asked(model: Path, *variants: dict[str, Any]) -> Recipe:
    return parse_recipe({"model": {"source": str(model)}, "variants": list(variants)})


def preview(recipe: Recipe, home: Path) -> None:
    download.preview_checkpoints(recipe, download.preview_source(recipe.model, home), home)


@pytest.mark.parametrize("method", ["gptq", "awq", "hqq", "bitsandbytes"])
def test_a_quantized_model_is_not_quantized_again(tmp_path: Path, method: str) -> None:
    folder = model_folder(tmp_path / "model", GPTQ)
    with pytest.raises(
        RecipeError, match=r"the model is already quantized with gptq; use `method: imported` to take its weights"
    ):
        preview(asked(folder, {"method": "imported"}, {"method": method}), tmp_path / "home")
    preview(asked(folder, {"method": "imported"}), tmp_path / "home")


def test_the_command_line_says_so_before_it_writes(tmp_path: Path) -> None:
    model = {"source": str(model_folder(tmp_path / "model", GPTQ))}
    code, error, _ = compress(tmp_path, {"model": model, "variants": [{"method": "gptq"}]})
    assert (code, error.count("\n")) == (2, 1)
    assert (
        "gptq-4bit-g64: the model is already quantized with gptq; use `method: imported` to take its weights" in error
    )


@pytest.mark.parametrize(
    ("config", "files", "words"),
    [
        ({}, {}, "its weights are not quantized; imported takes GPTQ"),
        (GPTQ | {"hidden_size": 96}, {}, "its hidden size is 96, the model's is 64: another model"),
        (GPTQ | {"vocab_size": 7}, {}, "its vocabulary size is 7, the model's is 100: another model"),
        (GPTQ | {"auto_map": {"AutoModel": "x.Y"}}, {}, "config.json: holds auto_map, which names code"),
        (GPTQ | {"text_config": {"auto_map": {"AutoModel": "x.Y"}}}, {}, "config.json: holds auto_map"),
        ({"text_config": GPTQ | {"auto_map": {"AutoModel": "x.Y"}}}, {}, "config.json: holds auto_map"),
        ({"num_experts": -1}, {}, "the config states -1 experts"),
        ({"quantization_config": {"quant_method": "fp8"}}, {}, "quantized with fp8 already"),
    ],
)
def test_what_is_no_checkpoint_of_the_model(
    tmp_path: Path, config: dict[str, Any], files: dict[str, bytes], words: str
) -> None:
    model, place = model_folder(tmp_path / "model"), model_folder(tmp_path / "taken", config, **files)
    recipe = asked(model, {"method": "imported", "source": str(place)})
    origin = download.inspect_source(recipe.model, tmp_path / "home")
    with pytest.raises(QuantmillError) as raised:
        download.inspect_checkpoints(recipe, origin, tmp_path / "home")
    assert str(raised.value).startswith(f"variants: imported {place}: ")
    assert words in str(raised.value)
    assert raised.value.exit_code == 2


def test_two_checkpoints_of_one_name(tmp_path: Path) -> None:
    places = [str(model_folder(tmp_path / name, GPTQ)) for name in ("one", "two")]
    recipe = asked(model_folder(tmp_path / "model"), {"method": "imported", "source": places})
    with pytest.raises(
        RecipeError, match=r"two: would be named imported-gptq-4bit-g128, as would .*one; use one recipe"
    ):
        preview(recipe, tmp_path / "home")


@pytest.mark.parametrize("option", [{"bits": 4}, {"type": "nf4"}, {"layers": [{"match": "x", "bits": 8}]}])
def test_nothing_can_be_chosen(option: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="imported keeps a checkpoint unchanged; only source can be set"):
        parse_recipe({"model": {"source": "x"}, "variants": [{"method": "imported", **option}]})


def tokenizer(path: Path, words: list[str], **form: Any) -> None:
    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token=words[0]))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if form.pop("cut", False):
        made.enable_truncation(4)
    made.save(str(path / "tokenizer.json"), **form)


def test_a_tokenizer_is_judged_by_its_ids(tmp_path: Path) -> None:
    words = ["?", "the", "of", "and", "a"]
    model, same, other, out = (tmp_path / name for name in ("model", "same", "other", "out"))
    for folder in (model, same, other):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": 1}))
        (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    tokenizer(model, words)
    tokenizer(same, words, pretty=False, cut=True)
    tokenizer(other, [*words[:3], "a", "and"])
    taken = Packing(method="gptq", bits=4)
    out.mkdir()
    imported.take_over(same, ["config.json", "model.safetensors", "tokenizer.json"], model, taken, out, lambda *_: None)
    assert (
        (out / "tokenizer.json").read_bytes()
        == (same / "tokenizer.json").read_bytes()
        != (model / "tokenizer.json").read_bytes()
    )
    with pytest.raises(TokenizerMismatch, match="the checkpoint tokenizes unlike the model"):
        imported.take_over(other, ["model.safetensors", "tokenizer.json"], model, taken, out, lambda *_: None)


def test_a_checkpoint_that_lacks_a_matrix(tmp_path: Path) -> None:
    import numpy
    from safetensors.numpy import save_file

    model, less = tmp_path / "model", tmp_path / "less"
    for folder, layers in ((model, (0, 1)), (less, (0,))):
        folder.mkdir()
        weights = {f"model.layers.{n}.mlp.up_proj.weight": numpy.zeros((8, 8), numpy.float16) for n in layers}
        save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"lacks model\.layers\.1\.mlp\.up_proj\.weight of the model \(1 in all\)"):
        imported.account(model, less, Packing(method="gptq", bits=4))
