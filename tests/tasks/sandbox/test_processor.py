"""The processor's class, the arithmetic of the class, and the refusal of a job of another class."""

from pathlib import Path
from typing import Any

import pytest

from flows import jobs
from flows.pools.pools import Pool
from quantmill.errors import ProcessorMismatch
from quantmill.recipe.recipe_file import parse_recipe
from quantmill.records.job import VariantJob
from quantmill.settings import Settings
from quantmill.store.places import open_store
from tasks import processor
from tasks.quantize import quantize
from tasks.sandbox.sandbox import Sandbox
from tests import samples

AMX = "flags\t\t: fpu sse2 avx2 avx512f avx512_bf16 amx_bf16\n"
ZEN4 = "flags\t\t: fpu sse2 avx2 avx512f avx512_bf16\n"
SKYLAKE = "flags\t\t: fpu sse2 avx2 avx512f\n"
ZEN3 = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu sse2 avx2\n"


@pytest.mark.parametrize(
    ("cpuinfo", "machine", "environment", "kind", "arithmetic"),
    [
        (AMX, "x86_64", {}, "amx-bf16", "bfloat16"),
        (ZEN4, "x86_64", {}, "avx512-bf16", "bfloat16"),
        (SKYLAKE, "x86_64", {}, "avx512", "float32"),
        (ZEN3, "x86_64", {}, "avx2", "float32"),
        ("", "x86_64", {}, "baseline", "float32"),
        (AMX, "x86_64", {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}, "avx2", "float32"),
        (ZEN4, "x86_64", {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, "avx512", "float32"),
        (ZEN3, "x86_64", {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, "avx2", "float32"),
        ("Features\t: fp asimd bf16\n", "aarch64", {}, "aarch64-bf16", "bfloat16"),
        ("Features\t: fp asimd\n", "aarch64", {}, "aarch64", "float32"),
    ],
)
def test_the_class_and_its_arithmetic(
    cpuinfo: str, machine: str, environment: dict[str, str], kind: str, arithmetic: str
) -> None:
    found = processor.processor_class(cpuinfo, machine, environment)
    assert (found, processor.arithmetic(found)) == (kind, arithmetic)


def planned(method: dict[str, Any], *pools: Pool) -> VariantJob:
    """The job of one variant of a made-up snapshot."""
    made = samples.job("m")
    recipe = parse_recipe({"model": {"source": "/models/m"}, "variants": [method]})
    job, *_ = jobs.make_plan(recipe, made.snapshot, made.evaluation, made.evaluation, 1, {}, pools).variants
    return job


def test_keys_hold_the_class_where_bytes_depend_on_it() -> None:
    cpu = Pool(name="cpu", memory=16 * 10**9)
    for method, depends in (
        ("gptq", True),
        ("awq", True),
        ("autoround", True),
        ("hqq", False),
        ("bitsandbytes", False),
    ):
        here, there = (
            planned({"method": method}, cpu.model_copy(update={"processor": kind})) for kind in ("avx2", "avx512-bf16")
        )
        assert (here.artifact_key != there.artifact_key) is depends
        assert (here.processor, there.processor) == (("avx2", "avx512-bf16") if depends else ("", ""))
        if method in ("gptq", "autoround"):
            assert (here.arithmetic, there.arithmetic) == ("float32", "bfloat16")
        elif depends:
            assert here.arithmetic == there.arithmetic == "bfloat16", "the engine cannot work in another"


def test_a_pool_that_states_no_class_has_the_planner_s() -> None:
    cpu, here = Pool(name="cpu", memory=16 * 10**9), processor.of_this_machine()
    stated = cpu.model_copy(update={"processor": here})
    assert planned({"method": "gptq"}, cpu).artifact_key == planned({"method": "gptq"}, stated).artifact_key
    assert planned({"method": "gptq"}).artifact_key == planned({"method": "gptq"}, cpu).artifact_key


def test_gpus_know_no_processor() -> None:
    gpu = Pool(name="gpu", device="cuda", memory=16 * 10**9, processor="avx2")
    assert planned({"method": "gptq"}, gpu).processor == ""


def test_a_worker_of_another_class_refuses_before_work(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    other = next(kind for kind in ("avx2", "avx512-bf16") if kind != processor.of_this_machine())
    job = planned({"method": "gptq"}, Pool(name="cpu", memory=16 * 10**9, processor=other))
    with pytest.raises(
        ProcessorMismatch, match=f"planned for a processor of class {other}, this one is {processor.of_this_machine()}"
    ):
        quantize.make_artifact(job, open_store(settings.store_uri), Sandbox(settings))
    assert not (tmp_path / "logs").exists(), "no job was started"
