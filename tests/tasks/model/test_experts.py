"""Calibration tokens that reach the experts of a mixture."""

from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save_file

from tasks.marks import marks_of
from tasks.model import experts
from tests import samples


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of four experts whose first router finds them all equal, and so takes the same two."""
    import torch
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = MixtralConfig(vocab_size=64, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, **shape)
    model = MixtralForCausalLM(config).to(torch.bfloat16)
    state = model.state_dict()
    (router,) = (name for name in state if "layers.0" in name and name.endswith("gate.weight"))
    state[router].zero_()
    folder = tmp_path_factory.mktemp("mixtral")
    model.save_pretrained(folder)
    return folder


def windows(folder: Path, count: int) -> Path:
    ids = numpy.random.default_rng(0).integers(0, 64, (count, 32), dtype=numpy.int32)
    save_file({"input_ids": ids}, folder / "windows.safetensors")
    return folder / "windows.safetensors"


@pytest.mark.slow
def test_tokens_are_counted_and_the_starved_are_named(mixtral: Path, tmp_path: Path) -> None:
    counted = experts.count_tokens(mixtral, windows(tmp_path, 8))
    assert set(counted) == {f"{layer}.{expert}" for layer in (0, 1) for expert in range(4)}
    for layer in (0, 1):
        assert sum(counted[f"{layer}.{expert}"] for expert in range(4)) == 8 * 32 * 2, "each token goes to two"
    assert sorted(counted[f"0.{expert}"] for expert in range(4)) == [0, 0, 256, 256], (
        "equal scores: always the same two"
    )
    starved = experts.starved(mixtral, tmp_path / "windows.safetensors")
    assert {name for name, tokens in starved.items() if tokens == 0} >= {n for n, t in counted.items() if t == 0}


def test_starved_experts_are_a_mark() -> None:
    found = samples.outcome("a")
    assert found.artifact
    artifact = found.artifact.model_copy(update={"starved_experts": {"0.3": 4, "1.2": 0}})
    job = type("Job", (), {"snapshot": type("Snapshot", (), {"source_types": {}})(), "checkpoint": None})()
    assert "2 starved experts" in marks_of(job, found.model_copy(update={"artifact": artifact}), {})
