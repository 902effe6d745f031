"""AutoRound's peculiarities: only its log tells its progress, and the processor sets its arithmetic."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tasks.quantize.methods.autoround import _BlockProgress


def test_blocks_are_counted_from_the_log_and_never_beyond_the_last() -> None:
    told: list[tuple[str, int, int]] = []
    logger = logging.Logger("engine")
    logger.addHandler(_BlockProgress(lambda *step: told.append(step), 2))
    logger.info("quantized %s layers in the block, loss iter 0: 1.2e-3 -> iter 4: 1.1e-3", "7/7")
    logger.info("'peak_ram': 0.56GB")
    for _ in range(3):
        logger.info("quantized 7/7 layers in the block")
    assert told == [("block", 1, 2), ("block", 2, 2)]


WORK = """
import json, sys
from pathlib import Path
from quantmill.recipe.variant_request import VariantRequest
from tasks.model import tensors
from tasks.quantize.methods import autoround
from tasks.quantize.work import Work

source, windows, out, engine_says, arithmetic = sys.argv[1:]
from auto_round.utils import device
device.CpuInfo.bf16 = property(lambda _: engine_says == "bf16")
rule = {"match": "self_attn", "bits": 16}
(spec,) = VariantRequest(method="autoround", iterations=1, layers=[rule]).expand()
autoround.quantize(Work(
    source=Path(source), needed={}, out=Path(out), bits=spec.bits, kind="", layers=spec.layers, options=spec.options,
    calibration=Path(windows), device="cpu", arithmetic=arithmetic, progress=lambda *step: None,
))
types = {name: tensor.dtype for name, tensor in tensors.read_headers(Path(out)).items()}
print(json.dumps([types, json.loads(Path(out, "config.json").read_text())["dtype"]]))
"""


@pytest.mark.slow
def test_the_types_do_not_depend_on_what_the_engine_finds(tiny: Path, tmp_path: Path) -> None:
    """A processor without bf16 instructions made a file half as large again, of the same config."""
    windows = tmp_path / "windows.safetensors"
    save_file({"input_ids": torch.randint(0, 49152, (2, 64), dtype=torch.int32)}, windows)
    found = []
    for engine_says, arithmetic in (("none", "float32"), ("bf16", "float32"), ("bf16", "bfloat16")):
        out = tmp_path / f"{engine_says}-{arithmetic}"
        out.mkdir()
        command = [sys.executable, "-c", WORK, str(tiny), str(windows), str(out), engine_says, arithmetic]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
        found.append(json.loads(done.stdout.splitlines()[-1]))
    assert found[0] == found[1] == found[2]
    types, stated = found[0]
    assert "F32" not in types.values()
    assert types["model.layers.0.self_attn.q_proj.weight"] == "BF16"
    assert stated == "bfloat16"
