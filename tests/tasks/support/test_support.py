"""Refusals by name before any work, from the engines' lists and the model's layout, without engines."""

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.numpy import save_file

from quantmill.errors import RecipeError
from quantmill.recipe.recipe_file import parse_recipe
from tasks import quantize
from tasks.model import architecture, tensors
from tasks.support import gguf as gguf_support
from tasks.support import gptqmodel as gptqmodel_support
from tasks.tokenizer import pre_tokenizers

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 100,
}
PLAIN = {"model.embed_tokens.weight": (100, 64), "model.layers.0.self_attn.q_proj.weight": (64, 64)}
GPT2 = {"transformer.wte.weight": (100, 64), "transformer.h.0.attn.c_attn.weight": (64, 192)}
PHI3 = PLAIN | {"model.layers.0.mlp.gate_up_proj.weight": (128, 64)}
EXPERT = "model.layers.0.block_sparse_moe.experts"
ROUTER = "model.layers.0.block_sparse_moe.gate"
MIXTURE = PLAIN | {f"{EXPERT}.{n}.w{part}.weight": (64, 64) for n in range(4) for part in (1, 2, 3)}
FEW = PLAIN | {f"{EXPERT}.0.w1.weight": (64, 32)}


def folder(tmp_path: Path, name: str, kind: str, shapes: dict[str, tuple[int, ...]], **config: Any) -> Path:
    """Write a model folder of which only the header is looked at."""
    place = tmp_path / "model"
    place.mkdir()
    words = {"architectures": [name], "model_type": kind} | SHAPE | config
    (place / "config.json").write_text(json.dumps(words))
    save_file({name: numpy.zeros(shape, numpy.float16) for name, shape in shapes.items()}, place / "model.safetensors")
    return place


def requests(method: str, **options: Any) -> Any:
    request = {"type": "Q8_0"} if method == "gguf" else {"type": "nf4"} if method == "bitsandbytes" else {}
    variants = [{"method": method, **request, **options}]
    return parse_recipe({"model": {"source": "x"}, "variants": variants}).expand()


@pytest.mark.parametrize(
    ("name", "kind", "shapes", "method", "words"),
    [
        ("LlamaForCausalLM", "llama", PLAIN, "gptq", ""),
        ("LlamaForCausalLM", "llama", PLAIN, "gguf", ""),
        ("NobodyForCausalLM", "nobody", PLAIN, "awq", "GPTQModel does not take nobody"),
        ("OPTForCausalLM", "opt", PLAIN, "gguf", "converter does not take OPTForCausalLM"),
        ("OPTForCausalLM", "opt", PLAIN, "gptq", ""),
        ("GPT2LMHeadModel", "gpt2", GPT2, "gptq", "gptq-4bit-g64: transformers cannot open .* (Conv1D)"),
        ("GPT2LMHeadModel", "gpt2", GPT2, "awq", "(Conv1D)"),
        ("GPT2LMHeadModel", "gpt2", GPT2, "autoround", ""),
        ("GPT2LMHeadModel", "gpt2", GPT2, "hqq", ""),
        ("MixtralForCausalLM", "mixtral", MIXTURE, "bitsandbytes", "leaves the experts in bf16, 92% of"),
        ("MixtralForCausalLM", "mixtral", MIXTURE, "hqq", "leaves the experts in bf16, 92% of"),
        ("MixtralForCausalLM", "mixtral", MIXTURE, "gptq", ""),
        ("MixtralForCausalLM", "mixtral", FEW, "hqq", ""),
        ("Gemma2ForCausalLM", "gemma2", PLAIN, "gguf", "tokenizer.model, which the folder lacks"),
        ("Phi3ForCausalLM", "phi3", PLAIN, "gguf", "tokenizer.model, which the folder lacks"),
        ("Gemma3ForCausalLM", "gemma3_text", PLAIN, "gguf", ""),
        ("Qwen3ForCausalLM", "qwen3", PLAIN, "gguf", ""),
        (
            "DeepseekV2ForCausalLM",
            "deepseek_v2",
            PLAIN,
            "gguf",
            "needs a newer gguf than the locked version, one that knows",
        ),
        ("Phi3ForCausalLM", "phi3", PHI3, "gptq", "splits gate_up_proj"),
        ("Phi3ForCausalLM", "phi3", PHI3, "awq", "splits gate_up_proj"),
        ("Phi3ForCausalLM", "phi3", PHI3, "autoround", ""),
        ("GlmForCausalLM", "glm", PHI3, "gptq", "splits gate_up_proj"),
    ],
)
def test_refusals(
    tmp_path: Path, name: str, kind: str, shapes: dict[str, tuple[int, ...]], method: str, words: str
) -> None:
    place = folder(tmp_path, name, kind, shapes)
    if not words:
        quantize.require(requests(method), place)
        return
    with pytest.raises(RecipeError, match=words.replace("(", r"\(").replace(")", r"\)")):
        quantize.require(requests(method), place)


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("Gemma3ForCausalLM", {"head_dim": 64, "query_pre_attn_scalar": 256}, "query_pre_attn_scalar: 256"),
        ("Gemma3ForCausalLM", {"head_dim": 64, "query_pre_attn_scalar": 64}, ""),
        ("Gemma3ForCausalLM", {"head_dim": 64, "query_pre_attn_scalar": 32}, ""),  # width over heads, as in the 27B
        ("Qwen3MoeForCausalLM", {}, "norm_topk_prob"),
        ("PhiForCausalLM", {}, "4 x hidden_size"),
        ("PhiForCausalLM", {"intermediate_size": 256, "num_key_value_heads": 1}, "4 x hidden_size"),
        ("PhiForCausalLM", {"intermediate_size": 256, "num_key_value_heads": 2}, ""),  # as in Phi 2
        ("PhiForCausalLM", {"intermediate_size": 256}, ""),
        ("Qwen3MoeForCausalLM", {"norm_topk_prob": True}, ""),
    ],
)
def test_what_llama_cpp_would_compute_otherwise(tmp_path: Path, name: str, config: dict[str, Any], words: str) -> None:
    found = gguf_support.obstacle(name, folder(tmp_path, name, "x", PLAIN, **config))
    assert words in found if words else not found


@pytest.mark.parametrize("rope", [{"rope_parameters": {"full_attention": {}}}, {"rope_local_base_freq": 1e4}])
def test_awq_of_a_model_with_a_rotary_embedding_for_each_type_of_layer(tmp_path: Path, rope: dict[str, Any]) -> None:
    place = folder(tmp_path, "Gemma3ForCausalLM", "gemma3_text", PLAIN, **rope)
    with pytest.raises(RecipeError, match="one rotary embedding for all layers"):
        quantize.require(requests("awq"), place)
    quantize.require(requests("gptq"), place)


def test_a_vocabulary_that_is_there_is_no_reason(tmp_path: Path) -> None:
    place = folder(tmp_path, "Phi3ForCausalLM", "phi3", PLAIN)
    (place / "tokenizer.model").write_bytes(b"")
    quantize.require(requests("gguf"), place)


@pytest.mark.parametrize(
    ("kind", "named", "words"),
    [
        ("qwen2", "PreTrainedTokenizerFast", "opens this tokenizer as Qwen2Tokenizer"),
        ("qwen3", "Qwen2TokenizerFast", "opens this tokenizer as Qwen2TokenizerFast"),
        ("qwen3", "PreTrainedTokenizerFast", ""),
    ],
)
def test_a_tokenizer_that_transformers_replaces_by_its_class(tmp_path: Path, kind: str, named: str, words: str) -> None:
    place = folder(tmp_path, "Qwen2ForCausalLM", kind, PLAIN)
    (place / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": named}))
    for tokenizer, expected in (("smollm", words), ("qwen2", "")):
        rule = pre_tokenizers.PRE_TOKENIZERS[tokenizer].rule
        (place / "tokenizer.json").write_text(json.dumps({"pre_tokenizer": rule}))
        found = gguf_support.obstacle("Qwen2ForCausalLM", place)
        assert expected in found if expected else not found


def test_the_engines_lists_are_found() -> None:
    """An engine that moved its list would switch the check off without a word."""
    assert len(gguf_support.architectures()) > 100
    assert len(gptqmodel_support.types()) > 50
    assert gguf_support.fixed_tokenizers()["qwen2"] == "Qwen2Tokenizer"


def test_rules_for_experts_that_have_another_name_are_refused(tmp_path: Path) -> None:
    place = folder(tmp_path, "MixtralForCausalLM", "mixtral", MIXTURE)
    with pytest.raises(RecipeError, match="has another name in transformers"):
        quantize.require(requests("gptq", layers=[{"match": "w1", "bits": 8}]), place)
    quantize.require(requests("gptq", layers=[{"match": "q_proj", "bits": 8}]), place)


@pytest.mark.parametrize(
    ("config", "experts", "inputs"),
    [
        ({}, 0, (64, 128)),
        ({"num_local_experts": 4}, 4, (64, 128)),
        ({"num_experts": 8, "moe_intermediate_size": 96}, 8, (64, 96, 128)),
        ({"intermediate_size": None, "ffn_dim": 512}, 0, (64, 512)),
        ({"intermediate_size": None, "n_inner": None}, 0, (64, 256)),
    ],
)
def test_shapes(tmp_path: Path, config: dict[str, Any], experts: int, inputs: tuple[int, ...]) -> None:
    found = architecture.of_config(folder(tmp_path, "XForCausalLM", "x", PLAIN, **config))
    assert (found.experts, found.linear_inputs) == (experts, inputs)


@pytest.mark.parametrize(("method", "runtime"), [("gptq", "gptqmodel"), ("awq", "gptqmodel"), ("hqq", "hqq")])
def test_experts_of_gptqmodel_are_opened_by_it(method: str, runtime: str) -> None:
    (spec,) = requests(method)
    assert spec.runtime(4) == runtime
    assert spec.runtime(0) == spec.row.runtime


def test_transposed_matrices_and_biases_are_counted_once(tmp_path: Path) -> None:
    source = folder(tmp_path, "GPT2LMHeadModel", "gpt2", GPT2 | {"transformer.h.0.attn.c_attn.bias": (192,)})
    stem = "transformer.h.0.attn.c_attn"
    (out := tmp_path / "out").mkdir()
    made = {
        f"{stem}.qweight": numpy.zeros((64 * 192 // 8,), numpy.int32),
        f"{stem}.bias": numpy.zeros(192, numpy.float16),
    }
    save_file(made | {"transformer.wte.weight": numpy.zeros((100, 64), numpy.float16)}, out / "model.safetensors")
    records = {record.name: record for record in tensors.account(source, out, "gptq")}
    assert records[f"{stem}.weight"].bits == 4.0, "its bias has a record of its own"
    assert records[f"{stem}.bias"].bits == 16.0
    assert not any(record.fallback for record in records.values())


def test_experts_are_counted_under_both_names(tmp_path: Path) -> None:
    source = folder(tmp_path, "MixtralForCausalLM", "mixtral", MIXTURE | {f"{ROUTER}.weight": (4, 64)})
    (out := tmp_path / "out").mkdir()
    new = {name: tensors.renamed(name).removesuffix(".weight") for name in MIXTURE if "experts" in name}
    assert new[f"{EXPERT}.1.w3.weight"] == "model.layers.0.mlp.experts.1.up_proj"
    lost = f"{EXPERT}.3.w2.weight"
    packed = {f"{stem}.qweight": numpy.zeros(64 * 64 // 8, numpy.int32) for name, stem in new.items() if name != lost}
    kept = {"model.embed_tokens.weight": numpy.zeros((100, 64), numpy.float16)}
    kept[f"{tensors.renamed(ROUTER)}.weight"] = numpy.zeros((4, 64), numpy.float16)
    kept["model.layers.0.self_attn.q_proj.weight"] = numpy.zeros((64, 64), numpy.float16)
    save_file(packed | kept, out / "model.safetensors")
    records = {record.name: record for record in tensors.account(source, out, "gptq")}
    assert {name: record.fallback for name, record in records.items() if record.fallback} == {
        lost: "not in the artifact under its name",
        "model.layers.0.self_attn.q_proj.weight": "left in f16",
    }
    assert {records[name].bits for name in new if name != lost} == {4.0}
    assert f"{ROUTER}.weight" in records, "a router is kept, and asked of no method"
