"""Made-up artifacts, reports, jobs and manifests, for tests of later stages."""

from quantmill.files import keys
from quantmill.files.entries import FileEntry
from quantmill.recipe.recipe import ModelRequest, TokenRequest, VariantSpec
from quantmill.records.artifact import Architecture, Artifact, Origin, QuantizedTensor, Snapshot, TokenSet
from quantmill.records.job import VariantJob
from quantmill.records.manifest import Manifest, ManifestEvaluation, ManifestModel, Provenance, Safety, Version
from quantmill.records.report import BaselineMetrics, EvaluationReport, Outcome, Quality, Speed

DIGEST = "ab" * 32
BASELINE = BaselineMetrics(
    name="baseline-bf16",
    size_bytes=1000,
    bits_per_weight=16.0,
    perplexity=18.0,
    decode_tokens_per_s=8.0,
    prefill_tokens_per_s=80.0,
    peak_memory_bytes=5000,
    compute_dtype="float32",
    scored_tokens=100,
)


def artifact(size: int = 500) -> Artifact:
    return Artifact(
        spec=VariantSpec(method="bitsandbytes", bits=4, type="nf4", double_quant=True),
        format="safetensors",
        files=(FileEntry(path="model.safetensors", size_bytes=size, sha256=DIGEST),),
        tensors=(QuantizedTensor(name="w", scheme="nf4", bits=4.5, parameters=1000),),
        source_digest=DIGEST,
        toolchain={"torch": "2.13.0"},
        hardware="a processor",
        quantize_s=1.0,
        peak_memory_bytes=10**9,
    )


def report(
    name: str,
    perplexity: float = 17.0,
    mean_kl: float = 0.05,
    p99_kl: float = 1.0,
    top1: float = 0.9,
    unigram: float = 300.0,
    distinct: int = 20,
) -> EvaluationReport:
    quality = Quality(
        scored_tokens=4592,
        perplexity=perplexity,
        mean_kl=mean_kl,
        p99_kl=p99_kl,
        top1_agreement=top1,
        unigram_perplexity=unigram,
        compute_dtype="float32",
    )
    speed = Speed(
        load_s=1.0,
        prefill_tokens_per_s=100.0,
        decode_tokens_per_s=10.0,
        peak_memory_bytes=10**9,
        prompt_tokens=128,
        generated_tokens=24,
        repeats=3,
        threads=2,
        compute_dtype="bfloat16",
        kernel="torch",
        hardware="a processor",
    )
    return EvaluationReport(
        name=name,
        artifact_digest=DIGEST,
        evaluation_digest=DIGEST,
        runtime="transformers",
        runtime_version="5.23.0",
        quality=quality,
        speed=speed,
        sample="words",
        sample_distinct_tokens=distinct,
        head_digest=DIGEST,
        evaluate_s=10.0,
    )


def outcome(name: str, size: int = 500, **figures: float) -> Outcome:
    return Outcome(name=name, artifact=artifact(size), report=report(name, **figures))  # type: ignore[arg-type]


def manifest(files: tuple[FileEntry, ...], name: str = "m/v") -> Manifest:
    measured = report("v")
    return Manifest(
        name=name,
        key=DIGEST,
        model=ManifestModel(uri="u", revision=DIGEST, files=()),
        variant={"method": "gguf"},
        recipe_sha256=DIGEST,
        toolchain={},
        hardware="",
        evaluation=ManifestEvaluation(
            suite=DIGEST,
            metrics=measured.quality,
            speed=measured.speed,
            bits_per_weight=4,
            gate={},
            report_sha256=DIGEST,
        ),
        files=files,
        safety=Safety(formats=("gguf",)),
    )


def version(of: Manifest, made_at: float = 1.0, model: str = "m", variant: str = "v") -> Version:
    provenance = Provenance(manifest=of.digest, recipe={}, made_at=made_at)
    return Version(model=model, variant=variant, manifest=of.digest, provenance=provenance)


SHAPE = Architecture(
    name="LlamaForCausalLM",
    model_type="llama",
    layers=1,
    hidden_size=64,
    vocabulary_size=256,
    linear_inputs=(64,),
    packing=None,
)


def job(
    name: str, method: str = "bitsandbytes", files: tuple[FileEntry, ...] = (), parts: int = 0, **spec: object
) -> VariantJob:
    """Return a job with keys of its own; `parts` makes it as long as one of a model of that many tensors."""
    origin = Origin(request=ModelRequest(source="/models/m"), kind="gguf", files=files, architecture=SHAPE)
    types = {f"model.layers.{part}.self_attn.q_proj.weight": "Q4_1" for part in range(parts)}
    windows = FileEntry(path="windows.safetensors", size_bytes=1, sha256=DIGEST)
    return VariantJob(
        name=name,
        spec=VariantSpec.model_validate({"method": method, "bits": 8} | spec),
        snapshot=Snapshot(origin=origin, files=files, source_types=types, parameters=1000),
        evaluation=TokenSet(
            request=TokenRequest(), role="evaluation", text_sha256=DIGEST, tokenizer_digest=DIGEST, file=windows
        ),
        artifact_key=keys.stage_key("artifact", name=name),
        body_key=keys.stage_key("body", name=name),
        report_key=keys.stage_key("report", name=name),
        device="cpu",
        threads=1,
    )
