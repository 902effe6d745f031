"""Every way of quantizing on CUDA, with the same requests as on the CPU. Skipped without CUDA."""

import math
from pathlib import Path

import pytest

from tests.tasks.quantize.bench import VARIANTS, Bench

pytestmark = [pytest.mark.slow, pytest.mark.gpu]


@pytest.fixture(scope="module")
def gpu() -> str:
    """The name of the GPU; torch is imported here, not while tests are collected."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA on this machine: the paths of GPUs are not run")
    return str(torch.cuda.get_device_name("cuda"))


@pytest.fixture(scope="module")
def on_gpu(gpu: str, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("gpu"), tiny, device="cuda")


@pytest.mark.parametrize("index", range(len(VARIANTS)), ids=lambda n: "-".join(map(str, VARIANTS[n][0].values())))
def test_made_and_measured_there(gpu: str, on_gpu: Bench, index: int) -> None:
    job = list(on_gpu.jobs.values())[index]
    artifact = on_gpu.make(job)
    schemes = {tensor.scheme for tensor in artifact.tensors}
    assert VARIANTS[index][1] <= schemes | {"bf16"}
    assert not artifact.given_up, "nothing was tried again on the processor"
    report = on_gpu.measure(job)
    assert math.isfinite(report.quality.perplexity)
    if job.spec.method == "gguf":  # llama-cpp-python is built for the processor
        assert job.device == "cpu"
    else:
        assert job.device == "cuda"
        assert artifact.hardware == report.speed.hardware == gpu


@pytest.mark.parametrize(
    "request_", [{"method": "bitsandbytes", "type": "nf4"}, {"method": "autoround", "iterations": 1}]
)
def test_layers_are_spread_over_what_there_is(
    gpu: str, tiny: Path, tmp_path: Path, request_: dict[str, object]
) -> None:
    bench = Bench(tmp_path / "home", tiny, [request_ | {"device_map": "auto"}], device="cuda")
    (job,) = bench.jobs.values()
    assert math.isfinite(bench.measure(job).quality.perplexity)
