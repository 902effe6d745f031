"""A finished run, made up: its recipe, its outcomes, its summary."""

from quantmill.files.entries import FileEntry
from quantmill.recipe.recipe import Recipe, VariantSpec
from quantmill.records.artifact import Artifact, QuantizedTensor
from quantmill.records.report import (
    EvaluationReport,
    Outcome,
    Quality,
    RunSummary,
    Speed,
    VariantSummary,
)
from quantmill.store.store import Store
from tasks.register import outbox
from tests import samples

MANIFEST = "d" * 64


RECIPE = Recipe.model_validate(
    {"model": {"source": "models/tiny"}, "variants": [{"method": "gguf", "type": ["Q8_0", "Q4_K_M", "Q2_K"]}]}
)


def variant(name: str, bits: int, **figures: object) -> VariantSummary:
    facts = {"name": name, "method": "gguf", "bits": bits, "format": "gguf", "cached": False}
    return VariantSummary.model_validate({**facts, **figures})


GOOD = variant("gguf-q8_0", 8, status="accepted", size_bytes=500, perplexity=18.1, mean_kl=0.001, manifest=MANIFEST)


BAD = variant("gguf-q2_k", 2, status="rejected", size_bytes=200, mean_kl=0.9, reasons=("mean KL 0.9 is above 0.2",))


BROKEN = variant("gguf-q4_k_m", 4, status="failed", reasons=("OutOfMemory: the job needed more than there is",))


SUMMARY = RunSummary(
    model="tiny",
    source="models/tiny",
    source_digest="c" * 64,
    baseline=samples.BASELINE,
    timings={"variants": 3.0},
    variants=(GOOD, BAD, BROKEN),
    noise_floor={"llama_cpp": 0.0005},
    pareto=("gguf-q8_0",),
    picks={"quality": "gguf-q8_0", "size": "gguf-q8_0", "speed": "gguf-q8_0"},
)


def outcome(name: str, bits: int, type_: str) -> Outcome:
    artifact = Artifact(
        spec=VariantSpec(method="gguf", bits=bits, type=type_),
        format="gguf",
        files=(FileEntry(path="model.gguf", size_bytes=500, sha256="a" * 64),),
        tensors=(QuantizedTensor(name="w", scheme=type_, bits=8.5, parameters=470),),
        source_digest="c" * 64,
        toolchain={"llama-cpp-python": "0.3.16"},
        hardware="a processor",
        quantize_s=1.0,
        peak_memory_bytes=900,
    )
    quality = Quality(
        scored_tokens=100,
        perplexity=18.1,
        mean_kl=0.001,
        p99_kl=0.01,
        top1_agreement=0.99,
        unigram_perplexity=900.0,
        compute_dtype="float32",
    )
    speed = Speed(
        load_s=0.1,
        prefill_tokens_per_s=100.0,
        decode_tokens_per_s=10.0,
        peak_memory_bytes=900,
        prompt_tokens=16,
        generated_tokens=16,
        repeats=3,
        threads=2,
        compute_dtype="float32",
        kernel="ggml",
        hardware="a processor",
    )
    report = EvaluationReport(
        name=name,
        artifact_digest=artifact.digest,
        evaluation_digest="e" * 64,
        runtime="llama_cpp",
        runtime_version="0.3.16",
        quality=quality,
        speed=speed,
        sample="Once",
        sample_distinct_tokens=1,
        head_digest="f" * 64,
        evaluate_s=2.0,
    )
    return Outcome(name=name, artifact=artifact, report=report)


OUTCOMES = {
    "gguf-q8_0": outcome("gguf-q8_0", 8, "Q8_0"),
    "gguf-q2_k": outcome("gguf-q2_k", 2, "Q2_K"),
    "gguf-q4_k_m": Outcome(name="gguf-q4_k_m", error="OutOfMemory", message="the job needed more than there is"),
}


def keep(store: Store) -> str:
    """Have the run wait for MLflow; return its name."""
    return outbox.keep(RECIPE, SUMMARY, OUTCOMES, {}, store)
