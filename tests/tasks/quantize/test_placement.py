"""`device_map` and `max_memory`: what engines get, which methods take none, and the CPU's real path."""

from pathlib import Path
from typing import Any

import pytest

from quantmill.errors import EngineError, RecipeError
from quantmill.recipe.recipe import VariantSpec
from quantmill.recipe.recipe_file import parse_recipe
from tasks.engines import placement
from tests.tasks.quantize.bench import Bench


def specs(**request: Any) -> list[VariantSpec]:
    return parse_recipe({"model": {"source": "x"}, "variants": [request]}).expand()


@pytest.mark.parametrize(
    ("options", "device", "told"),
    [
        ({}, "cuda:1", {"device_map": "cuda:1"}),
        ({"device_map": "auto"}, "cuda", {"device_map": "auto"}),
        (
            {"device_map": "balanced", "max_memory": "0=20GiB,1=1.5GiB,cpu=64GiB"},
            "cuda",
            {"device_map": "balanced", "max_memory": {0: "20GiB", 1: "1.5GiB", "cpu": "64GiB"}},
        ),
        (
            {"device_map": "auto", "max_memory": "0=20GiB,cpu=64GiB"},
            "cpu",
            {"device_map": "auto", "max_memory": {"cpu": "64GiB"}},
        ),
    ],
)
def test_what_transformers_is_told(options: dict[str, str], device: str, told: dict[str, Any]) -> None:
    (spec,) = specs(method="bitsandbytes", type="nf4", **options)
    assert placement.of(spec.device_map, spec.max_memory, device) == told
    assert spec.name == "bitsandbytes-nf4", "where it was made is no part of its name"


def test_on_the_processor_no_gpu_is_in_the_map() -> None:
    (spec,) = specs(method="bitsandbytes", type="nf4", device_map="auto")
    told = placement.of(spec.device_map, spec.max_memory, "cpu")
    assert list(told["max_memory"]) == ["cpu"]
    assert told["max_memory"]["cpu"] > 1 << 28


@pytest.mark.parametrize("method", ["gguf", "gptq", "awq", "hqq", "baseline", "imported"])
def test_methods_whose_engine_takes_none(method: str) -> None:
    kind = {"type": "Q8_0"} if method == "gguf" else {}
    with pytest.raises(RecipeError, match=rf"^variants\[0\]\.device_map: {method} does not have it"):
        specs(method=method, device_map="auto", **kind)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (
            {"method": "bitsandbytes", "device_map": "everywhere"},
            "supports auto, balanced, balanced_low_0, sequential; got",
        ),
        (
            {"method": "bitsandbytes", "device_map": "auto", "max_memory": "20GiB"},
            "supports such as 0=20GiB,1=20GiB; got",
        ),
        (
            {"method": "bitsandbytes", "device_map": "auto", "max_memory": {0: "20GiB"}},
            "max_memory: bitsandbytes supports",
        ),
        ({"method": "bitsandbytes", "max_memory": "0=20GiB"}, "max_memory: limits the devices of a device_map"),
        ({"method": "autoround", "device_map": "balanced"}, "device_map: autoround supports auto; got 'balanced'"),
        (
            {"method": "autoround", "device_map": "auto", "max_memory": "0=1GiB"},
            "max_memory: autoround does not have it",
        ),
        ({"method": "bitsandbytes", "type": "nf4", "device_map": ["auto", "balanced"]}, "nf4 is already requested"),
    ],
)
def test_what_is_refused(request_: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError) as raised:
        specs(**request_)
    assert words in str(raised.value)


@pytest.mark.slow
def test_on_the_processor_the_map_is_really_used(bench: Bench, tiny: Path) -> None:
    asked = {"method": "bitsandbytes", "type": "nf4", "device_map": "auto"}
    roomy = Bench(bench.sandbox.home, tiny, [asked | {"max_memory": "cpu=8GiB"}]).jobs["bitsandbytes-nf4"]
    plain = bench.jobs["bitsandbytes-nf4"]
    assert roomy.artifact_key != plain.artifact_key
    assert bench.make(roomy).files == bench.make(plain).files
    assert bench.measure(roomy).quality == bench.measure(plain).quality
    tight = Bench(bench.sandbox.home, tiny, [asked | {"max_memory": "cpu=1MiB"}]).jobs["bitsandbytes-nf4"]
    with pytest.raises(EngineError, match="dispatched on the CPU or the disk"):
        bench.make(tight)
