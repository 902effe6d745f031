"""Measurements and decisions: reports, verdicts and the run's summary (the `--json` document)."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from quantmill.records.artifact import Artifact

_FROZEN = ConfigDict(frozen=True, extra="forbid")
Status = Literal["accepted", "rejected", "failed"]


class Quality(BaseModel):
    """How well an artifact predicts the evaluation text, alone and compared with the baseline.

    All figures are over the same scored tokens.
    """

    model_config = _FROZEN

    scored_tokens: int = Field(ge=1, description="Positions that were scored.")
    perplexity: float = Field(description="exp of the mean negative log likelihood, nats.")
    mean_kl: float = Field(description="Mean KL(baseline || variant) per position, nats.")
    p99_kl: float = Field(description="99th percentile of the KL per position.")
    top1_agreement: float = Field(description="Share of positions where both rank the same token first.")
    unigram_perplexity: float = Field(
        description="Perplexity of the text's own token frequencies; above it: gibberish."
    )
    compute_dtype: str = Field(description="Arithmetic that the logits were computed in.")


class Speed(BaseModel):
    """Speed and memory of an artifact, loaded as a consumer loads it, alone on the machine."""

    model_config = _FROZEN

    load_s: float = Field(description="Folder -> ready, seconds, engine already imported.")
    prefill_tokens_per_s: float = Field(description="Prompt tokens per second, median of repeats.")
    decode_tokens_per_s: float = Field(
        description="Generated tokens per second, greedy, one sequence, median of repeats."
    )
    peak_memory_bytes: int = Field(description="VmHWM of the process after load, prefill and decode.")
    prompt_tokens: int = Field(description="Length of the prompt.")
    generated_tokens: int = Field(description="Tokens generated.")
    repeats: int = Field(description="Repeats of prefill and decode; speeds are the median.")
    threads: int = Field(description="Processor threads used.")
    compute_dtype: str = Field(description="Arithmetic of the loaded model.")
    kernel: str = Field(description="The kernel that multiplies the quantized weights.")
    hardware: str = Field(description="Processor or GPU.")


class Timing(BaseModel):
    """How speed was timed: the range of the repeats, and other work on the machine during them."""

    model_config = _FROZEN

    others: float = Field(ge=0, description="Processor time of others and steal, over the cores' wall time.")
    throttled: float = Field(
        default=0.0, ge=0, description="Time that a CPU quota throttled the group, over the wall time."
    )
    shares_gpu: bool = Field(default=False, description="Another process computed on the GPU.")
    busy_limit: float = Field(description="The machine is busy if `others` or `throttled` exceeds this share.")
    budget_s: float = Field(description="Seconds allowed for speed and generations together, without loading.")
    took_s: float = Field(description="Seconds that speed and generations took.")
    prefill_range: tuple[float, float] = Field(description="Least and most prompt tokens per second of the repeats.")
    decode_range: tuple[float, float] = Field(description="Least and most generated tokens per second of the repeats.")

    @property
    def busy(self) -> bool:
        """Whether other work on the machine distorts the figures."""
        return max(self.others, self.throttled) > self.busy_limit or (self.shares_gpu and self.busy_limit < 1)


class Generation(BaseModel):
    """Text that a model generates greedily after a prompt; all variants get the same prompts."""

    model_config = _FROZEN

    prompt: str
    text: str = Field(description="The generated text.")


class EvaluationReport(BaseModel):
    """Everything measured about one artifact."""

    model_config = _FROZEN

    name: str = Field(description="The variant's name.")
    artifact_digest: str = Field(description="Digest of the measured artifact.")
    evaluation_digest: str = Field(description="Digest of the evaluation windows.")
    runtime: str = Field(description="The library that loaded the artifact.")
    runtime_version: str = Field(description="The library's version.")
    quality: Quality
    speed: Speed
    sample: str = Field(description="Text that the artifact generated, greedily.")
    generations: tuple[Generation, ...] = Field(default=(), description="Generated text for three short prompts.")
    sample_distinct_tokens: int = Field(ge=0, description="Different tokens in the sample; 1 is gibberish.")
    head_digest: str = Field(description="Digest of the head that the baseline's logits were recomputed through.")
    trace_kl: float = Field(
        default=0.0, description="For the baseline: KL of recomputed against forwarded logits, first window."
    )
    evaluate_s: float = Field(ge=0, description="Seconds that the job took.")
    # This field came later; a report without it keeps its digest.
    timing: Timing | None = Field(
        default=None, exclude_if=lambda timing: timing is None, description="How speed was timed; None: not recorded."
    )

    @property
    def busy(self) -> bool:
        """Whether the machine is known to have been busy with other work while speed was measured."""
        return self.timing is not None and self.timing.busy


class Verdict(BaseModel):
    """The gate's decision about one variant, with its reasons in words."""

    model_config = _FROZEN

    status: Status
    reasons: tuple[str, ...] = Field(
        default=(), description="Reasons for a rejection, or remarks; empty: accepted without remarks."
    )


class BaselineMetrics(BaseModel):
    """The baseline's figures, with which the variants are compared."""

    model_config = _FROZEN

    name: str
    size_bytes: int
    bits_per_weight: float
    perplexity: float
    decode_tokens_per_s: float
    prefill_tokens_per_s: float
    peak_memory_bytes: int
    compute_dtype: str = Field(description="Arithmetic of the reference.")
    scored_tokens: int
    hardware: str = ""
    threads: int = 0
    kernel: str = ""
    generations: tuple[Generation, ...] = ()

    @classmethod
    def of(cls, outcome: "Outcome") -> "BaselineMetrics":
        """Return the figures of a baseline that was made and measured."""
        artifact, report = outcome.artifact, outcome.report
        if artifact is None or report is None:
            raise ValueError("no figures without a baseline")
        return cls(
            name=outcome.name,
            size_bytes=artifact.size_bytes,
            bits_per_weight=artifact.bits_per_weight,
            perplexity=report.quality.perplexity,
            decode_tokens_per_s=report.speed.decode_tokens_per_s,
            prefill_tokens_per_s=report.speed.prefill_tokens_per_s,
            peak_memory_bytes=report.speed.peak_memory_bytes,
            compute_dtype=report.quality.compute_dtype,
            scored_tokens=report.quality.scored_tokens,
            hardware=report.speed.hardware,
            threads=report.speed.threads,
            kernel=report.speed.kernel,
            generations=report.generations,
        )


class VariantSummary(BaseModel):
    """One variant's row; a figure is None if the variant failed before it was measured."""

    model_config = _FROZEN

    name: str
    method: str
    bits: int
    format: str
    status: Status
    reasons: tuple[str, ...] = ()
    cached: bool = Field(description="Artifact and report came from the store.")
    marks: tuple[str, ...] = Field(
        default=(), description="What qualifies the figures, such as `source-grid`, `within noise`, `42% fallback`."
    )
    size_bytes: int | None = None
    bits_per_weight: float | None = None
    perplexity: float | None = None
    perplexity_ratio: float | None = None
    mean_kl: float | None = None
    p99_kl: float | None = None
    top1_agreement: float | None = None
    decode_tokens_per_s: float | None = None
    prefill_tokens_per_s: float | None = None
    peak_memory_bytes: int | None = None
    quantize_s: float | None = None
    evaluate_s: float | None = None
    generations: tuple[Generation, ...] = Field(default=(), description="Generated text for three short prompts.")
    kernel: str = Field(default="", description="The kernel that multiplied its weights during the speed measurement.")
    repeats: int | None = Field(default=None, description="Repeats of the speed measurement; speeds are the median.")
    hardware: str = Field(default="", description="The processor or GPU that speed was measured on.")
    threads: int = Field(default=0, description="Processor threads of the speed measurement; 0: not measured.")
    compute_dtype: str = Field(default="", description="Arithmetic of the model during the speed measurement.")
    decode_range: tuple[float, float] | None = Field(default=None, description="Least and most of the repeats.")
    prefill_range: tuple[float, float] | None = Field(default=None, description="Least and most of the repeats.")
    others: float | None = Field(default=None, description="Share of the machine that other work took during it.")
    better: str = Field(default="", description="A variant at most 2 % larger with at most half the mean KL.")
    artifact: str | None = Field(default=None, description="The artifact's digest.")
    manifest: str | None = Field(default=None, description="The manifest's digest; None: the variant is not published.")


class RunSummary(BaseModel):
    """The result of a compress run: the `--json` document."""

    model_config = _FROZEN

    model: str = Field(description="The published model's name.")
    source: str = Field(description="The source's address, as in the recipe.")
    source_digest: str
    source_notes: tuple[str, ...] = ()
    baseline: BaselineMetrics
    timings: dict[str, float] = Field(description="Stage -> seconds of this run.")
    variants: tuple[VariantSummary, ...]
    noise_floor: dict[str, float] = Field(description="Runtime -> mean KL of the baseline's own weights, nats.")
    pareto: tuple[str, ...] = Field(description="Variants that no other variant beats in both bytes and KL.")
    picks: dict[str, str] = Field(description="`quality`, `size`, `speed` -> the best accepted variant.")
    channel: str = Field(default="", description="The channel that the run should move; empty: none.")
    channel_seq: int = Field(default=0, description="The channel's sequence number after the run.")
    mlflow_run: str = Field(
        default="",
        description="The MLflow run with these results; empty: MLflow did not answer, the results wait in the outbox.",
    )

    @property
    def accepted(self) -> tuple[VariantSummary, ...]:
        """The accepted variants."""
        return tuple(variant for variant in self.variants if variant.status == "accepted")


class Outcome(BaseModel):
    """The result of one variant job: artifact and report, or the error and the artifact, if made."""

    model_config = _FROZEN

    name: str
    artifact: Artifact | None = None
    report: EvaluationReport | None = None
    error: str = Field(default="", description="Class name of the failure; empty: none.")
    message: str = Field(default="", description="The error's message.")
    cached: bool = Field(default=False, description="Artifact and report came from the store.")
    tried: tuple[str, ...] = Field(default=(), description="Earlier failures of the job on pools, in words.")
    marks: tuple[str, ...] = Field(default=(), description="Facts of its runtime that qualify its figures.")
