"""Unquantized tensors keep the source's type; an account that differs from the file fails the variant."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from quantmill.errors import EngineError
from tasks.model import stored_types, tensors


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    weights = {
        "model.embed_tokens.weight": torch.randn(32, 8),
        "model.norm.weight": torch.randn(8),
        "model.layers.0.mlp.up_proj.weight": torch.randn(16, 8),
        "model.layers.0.block_sparse_moe.gate.weight": torch.randn(4, 8),
    }
    save_file({name: tensor.bfloat16() for name, tensor in weights.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"dtype": "bfloat16"}))
    return folder


def written(source: Path, changed: dict[str, torch.Tensor], dtype: str = "float32") -> Path:
    out = source.parent / "out"
    out.mkdir()
    held = {name: tensor.float() for name, tensor in load_file(source / "model.safetensors").items()}
    save_file(held | changed, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps({"dtype": dtype}))
    return out


def test_floats_get_the_source_s_type_and_the_same_values(source: Path) -> None:
    scales = {"model.layers.0.mlp.up_proj.scales": torch.ones(1, 16, dtype=torch.float16)}
    gate = load_file(source / "model.safetensors")["model.layers.0.block_sparse_moe.gate.weight"]
    router = {"model.layers.0.mlp.gate.weight": gate.float()}
    out = written(source, scales | router)
    stored_types.keep(source, out)
    before, after = load_file(source / "model.safetensors"), load_file(out / "model.safetensors")
    for name, tensor in before.items():
        assert after[name].dtype == torch.bfloat16
        assert torch.equal(after[name], tensor)
    assert after["model.layers.0.mlp.up_proj.scales"].dtype == torch.float16, "it is none of the source's"
    assert after["model.layers.0.mlp.gate.weight"].dtype == torch.bfloat16, "as transformers names it"
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    stored_types.check(source, written_again(out), tensors.account(source, out, scheme="bf16"))


def written_again(out: Path) -> Path:
    """Without what belongs to no weight of this source."""
    held = {
        name: tensor
        for name, tensor in load_file(out / "model.safetensors").items()
        if "mlp.gate" not in name and "scales" not in name
    }
    save_file(held, out / "model.safetensors")
    return out


def test_a_float_of_another_type_fails_the_variant(source: Path) -> None:
    out = written(source, {})
    account = tensors.account(source, out, scheme="gptq")
    with pytest.raises(EngineError, match=r"model\.embed_tokens\.weight: the engine stored F32, the source has BF16"):
        stored_types.check(source, out, account)


def test_bytes_that_no_record_has_fail_the_variant(source: Path) -> None:
    out = written(source, {"forgotten.qweight": torch.zeros(64, 64, dtype=torch.int32)})
    stored_types.keep(source, out)
    with pytest.raises(EngineError, match=r"the tensor records add up to \d+ bytes, the files hold \d+"):
        stored_types.check(source, out, tensors.account(source, out, scheme="gptq"))
