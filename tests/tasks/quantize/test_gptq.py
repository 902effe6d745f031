"""GPTQ's peculiarities: rounding to nearest under its name is detected, its folders hold no run data."""

import json
from pathlib import Path

from tasks.engines.gptqmodel import fallbacks, scrub
from tasks.model import tensors


def test_a_loss_that_is_no_number_is_a_fallback() -> None:
    log = [
        {"layer": 0, "module": "self_attn.q_proj", "loss": "0.0000347507"},
        {"layer": 1, "module": "mlp.down_proj", "loss": "fallback(rtn): 0.0012345"},
        {"layer": 11, "module": "mlp.down_proj", "loss": "rtn fallback"},
    ]
    assert fallbacks(log) == {
        ".1.mlp.down_proj": "rounded to nearest: fallback(rtn): 0.0012345",
        ".11.mlp.down_proj": "rounded to nearest: rtn fallback",
    }


def test_fallbacks_are_counted_by_weight(tmp_path: Path) -> None:
    import numpy
    from safetensors.numpy import save_file

    source, out = tmp_path / "source", tmp_path / "out"
    for folder in (source, out):
        folder.mkdir()
    wide = numpy.zeros((8, 16), numpy.float16)
    save_file({f"model.layers.{n}.mlp.down_proj.weight": wide for n in (1, 11)}, source / "model.safetensors")
    packed = {f"model.layers.{n}.mlp.down_proj.qweight": numpy.zeros((2, 8), numpy.int32) for n in (1, 11)}
    save_file(packed, out / "model.safetensors")
    made = tensors.account(source, out, "gptq", {".1.mlp.down_proj": "rounded to nearest"})
    assert {tensor.name: tensor.fallback for tensor in made} == {
        "model.layers.1.mlp.down_proj.weight": "rounded to nearest",
        "model.layers.11.mlp.down_proj.weight": "",
    }
    assert made[0].bits == 8 * 64 / 128


def test_a_matrix_left_as_it_was_is_a_fallback_and_a_head_is_not(tmp_path: Path) -> None:
    import numpy
    from safetensors.numpy import save_file

    names = ("model.layers.0.mlp.up_proj.weight", "lm_head.weight", "model.embed_tokens.weight", "model.norm.weight")
    save_file({name: numpy.zeros((4, 4), numpy.float16) for name in names}, tmp_path / "model.safetensors")
    made = {tensor.name: tensor.fallback for tensor in tensors.account(tmp_path, tmp_path, "nf4")}
    assert made == dict.fromkeys(names, "") | {names[0]: "left in f16"}
    assert not any(tensor.fallback for tensor in tensors.account(tmp_path, tmp_path, "bf16"))


def test_scrub(tmp_path: Path) -> None:
    (tmp_path / "quant_log.csv").write_text("layer,time\n")
    settings = {"bits": 4, "meta": {"offload_to_disk_path": "/somewhere/random", "damp": 0.05}}
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": settings}))
    (tmp_path / "quantize_config.json").write_text(json.dumps(settings))
    scrub(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "quantize_config.json"]
    assert json.loads((tmp_path / "quantize_config.json").read_text()) == {"bits": 4, "meta": {"damp": 0.05}}
    assert json.loads((tmp_path / "config.json").read_text())["quantization_config"]["meta"] == {"damp": 0.05}
