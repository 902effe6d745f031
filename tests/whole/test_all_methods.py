"""All six methods through the whole line on the small trained model: none fails.

The figures are in the order of their bits.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.line import Line

pytestmark = pytest.mark.slow

RECIPE: dict[str, Any] = {
    "calibration": {"samples": 4, "sequence_length": 128},
    "evaluation": {"samples": 8, "sequence_length": 128, "seed": 1},
    "variants": [
        {"method": "bitsandbytes", "type": "nf4"},
        {"method": "gptq", "bits": 4, "layers": [{"match": "down_proj", "bits": 8}]},
        {"method": "awq"},
        {"method": "hqq", "bits": [8, 4]},
        {"method": "autoround", "iterations": 2},
        {"method": "gguf", "type": ["Q8_0", "Q2_K"]},
    ],
    "gates": {"max_perplexity_ratio": 1.5, "max_mean_kl": 0.5},
    "publish": {"model": "tiny"},
}


@pytest.fixture(scope="module")
def summary(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("methods")
    _, summary, _ = Line(folder / "line", folder / "home", RECIPE | {"model": {"source": str(trained)}}).run()
    return summary


def test_no_method_fails(summary: dict[str, Any]) -> None:
    status = {row["name"]: row["status"] for row in summary["variants"]}
    assert "failed" not in status.values(), [row["reasons"] for row in summary["variants"]]
    assert {row["method"] for row in summary["variants"]} == {"bitsandbytes", "gptq", "awq", "hqq", "autoround", "gguf"}
    assert status["hqq-8bit-g64"] == status["gguf-q8_0"] == "accepted"
    assert summary["mlflow_run"], "MLflow took the recipe of all of them"


def test_damage_is_in_the_order_of_bits(summary: dict[str, Any]) -> None:
    kl = {row["name"]: row["mean_kl"] for row in summary["variants"]}
    fours = {name: value for name, value in kl.items() if "4bit" in name or "nf4" in name}
    assert len(fours) == 5
    assert max(kl["hqq-8bit-g64"], kl["gguf-q8_0"]) < min(fours.values())
    assert max(fours.values()) < kl["gguf-q2_k"]
    assert all(
        kl[name] > summary["noise_floor"][runtime]
        for name, runtime in (("gguf-q8_0", "llama_cpp"), ("hqq-8bit-g64", "hqq"))
    )


def test_each_writes_after_the_same_prompts(summary: dict[str, Any]) -> None:
    said = [row["generations"] for row in (summary["baseline"], *summary["variants"])]
    assert len({tuple(one["prompt"] for one in texts) for texts in said}) == 1
    assert all(len(texts) == 3 and all(one["text"] for one in texts) for texts in said)


def test_the_report_says_what_does_better_at_the_same_size(summary: dict[str, Any]) -> None:
    better = {row["name"]: row["better"] for row in summary["variants"]}
    size = {row["name"]: row["size_bytes"] for row in summary["variants"]}
    kl = {row["name"]: row["mean_kl"] for row in summary["variants"]}
    assert any(better.values())
    for name, other in better.items():
        if other:
            assert size[other] <= 1.02 * size[name]
            assert kl[other] <= 0.5 * kl[name]
