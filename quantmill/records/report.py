"""How variants measured and what was decided: reports, verdicts and the run's summary (the `--json` document)."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from quantmill.records.artifact import Artifact

_FROZEN = ConfigDict(frozen=True, extra="forbid")
Status = Literal["accepted", "rejected", "failed"]


class Quality(BaseModel):
    """How an artifact predicts the evaluation text, alone and beside the baseline. All over the same scored tokens."""

    model_config = _FROZEN

    scored_tokens: int = Field(ge=1, description="Positions that were scored.")
    perplexity: float = Field(description="exp of the mean negative log likelihood, nats.")
    mean_kl: float = Field(description="Mean KL(baseline || variant) per position, nats.")
    p99_kl: float = Field(description="99th percentile of the same.")
    top1_agreement: float = Field(description="Share of positions where both rank the same token first.")
    unigram_perplexity: float = Field(description="Perplexity of the text's own token frequencies: worse is gibberish.")
    compute_dtype: str = Field(description="Arithmetic that the logits were computed in.")


class Speed(BaseModel):
    """How fast and how large, loaded as a consumer loads it, alone on the machine."""

    model_config = _FROZEN

    load_s: float = Field(description="Folder -> ready, seconds, engine already imported.")
    prefill_tokens_per_s: float = Field(description="Prompt tokens per second, median of repeats.")
    decode_tokens_per_s: float = Field(
        description="Generated tokens per second, greedy, one sequence, median of repeats."
    )
    peak_memory_bytes: int = Field(description="VmHWM of the process after load, prefill and decode.")
    prompt_tokens: int = Field(description="Length of the prompt.")
    generated_tokens: int = Field(description="Tokens generated.")
    repeats: int = Field(description="Times that it was read and continued; speeds are the median.")
    threads: int = Field(description="Processor threads used.")
    compute_dtype: str = Field(description="Arithmetic of the loaded model.")
    kernel: str = Field(description="What multiplies the quantized weights.")
    hardware: str = Field(description="Processor or GPU.")


class Timing(BaseModel):
    """How speed was timed: how far the repeats lay apart, and what else the machine did meanwhile."""

    model_config = _FROZEN

    others: float = Field(ge=0, description="Processor time of others and steal, over the cores' wall time.")
    throttled: float = Field(
        default=0.0, ge=0, description="Time that a quota held the group back, over the wall time."
    )
    shares_gpu: bool = Field(default=False, description="Another process computed on the GPU.")
    busy_limit: float = Field(description="The share of either from which the machine counts as busy.")
    budget_s: float = Field(description="Seconds for speed and generations together, loading not counted.")
    took_s: float = Field(description="Seconds that they took.")
    prefill_range: tuple[float, float] = Field(description="Least and most prompt tokens per second of the repeats.")
    decode_range: tuple[float, float] = Field(description="Least and most generated tokens per second of the repeats.")

    @property
    def busy(self) -> bool:
        """Whether the figures say more of the machine's other work than of the variant."""
        return max(self.others, self.throttled) > self.busy_limit or (self.shares_gpu and self.busy_limit < 1)


class Generation(BaseModel):
    """What a model writes after a prompt, greedily: the same prompts for every variant."""

    model_config = _FROZEN

    prompt: str
    text: str = Field(description="What followed.")


class EvaluationReport(BaseModel):
    """Everything measured about one artifact."""

    model_config = _FROZEN

    name: str = Field(description="The variant's name.")
    artifact_digest: str = Field(description="What was measured.")
    evaluation_digest: str = Field(description="On which token windows.")
    runtime: str = Field(description="The library that loaded it.")
    runtime_version: str = Field(description="Its version.")
    quality: Quality
    speed: Speed
    sample: str = Field(description="Text that it generated, greedily.")
    generations: tuple[Generation, ...] = Field(default=(), description="What it writes after three short prompts.")
    sample_distinct_tokens: int = Field(ge=0, description="Different tokens in the sample; 1 is gibberish.")
    head_digest: str = Field(description="Digest of the head that the baseline's logits were recomputed through.")
    trace_kl: float = Field(
        default=0.0, description="Baseline: KL of recomputed against forwarded logits, first window."
    )
    evaluate_s: float = Field(ge=0, description="Seconds that the job took.")
    # Reports of before it was recorded keep their digests.
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
        default=(), description="Why not, or what to know; empty: accepted without remarks."
    )


class BaselineMetrics(BaseModel):
    """The baseline's figures, the yardstick of the others."""

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
    """One variant's row. Figures are None where the variant failed before they were measured."""

    model_config = _FROZEN

    name: str
    method: str
    bits: int
    format: str
    status: Status
    reasons: tuple[str, ...] = ()
    cached: bool = Field(description="Nothing was made again: artifact and report came from the store.")
    marks: tuple[str, ...] = Field(
        default=(), description="`source-grid`, `within noise`, `42% fallback`: what qualifies the figures."
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
    generations: tuple[Generation, ...] = Field(default=(), description="What it writes after three short prompts.")
    kernel: str = Field(default="", description="What multiplied its weights while speed was measured.")
    repeats: int | None = Field(default=None, description="Times that speed was measured; its median is shown.")
    hardware: str = Field(default="", description="The processor or GPU that speed was measured on.")
    threads: int = Field(default=0, description="Processor threads used there; 0: not measured.")
    compute_dtype: str = Field(default="", description="Arithmetic of the model as it was loaded for speed.")
    decode_range: tuple[float, float] | None = Field(default=None, description="Least and most of the repeats.")
    prefill_range: tuple[float, float] | None = Field(default=None, description="Least and most of the repeats.")
    others: float | None = Field(default=None, description="Share of the machine that other work had meanwhile.")
    better: str = Field(default="", description="Another variant, no larger and closer to the baseline by half.")
    artifact: str | None = Field(default=None, description="The artifact's digest.")
    manifest: str | None = Field(default=None, description="The manifest's digest; None where it was not published.")


class RunSummary(BaseModel):
    """What a compress run did: the `--json` document."""

    model_config = _FROZEN

    model: str = Field(description="The published model's name.")
    source: str = Field(description="What was asked for.")
    source_digest: str
    source_notes: tuple[str, ...] = ()
    baseline: BaselineMetrics
    timings: dict[str, float] = Field(description="Stage -> seconds of this run.")
    variants: tuple[VariantSummary, ...]
    noise_floor: dict[str, float] = Field(description="Runtime -> mean KL of the same weights in it, nats.")
    pareto: tuple[str, ...] = Field(description="Variants that no other beats in both bytes and KL.")
    picks: dict[str, str] = Field(description="`quality`, `size`, `speed` -> the accepted variant that is best at it.")
    channel: str = Field(default="", description="The channel that the run was to move; empty: none.")
    channel_seq: int = Field(default=0, description="The sequence number that the channel had after it.")
    mlflow_run: str = Field(
        default="",
        description="The MLflow run that registered these results; empty: MLflow did not answer, they wait in the outbox.",
    )

    @property
    def accepted(self) -> tuple[VariantSummary, ...]:
        """The accepted variants."""
        return tuple(variant for variant in self.variants if variant.status == "accepted")


class Outcome(BaseModel):
    """What became of one variant job: artifact and report, or the failure and what it left."""

    model_config = _FROZEN

    name: str
    artifact: Artifact | None = None
    report: EvaluationReport | None = None
    error: str = Field(default="", description="Class name of the failure; empty: none.")
    message: str = Field(default="", description="Its message.")
    cached: bool = Field(default=False, description="Both came from the store.")
    tried: tuple[str, ...] = Field(default=(), description="What failed on a pool before this, in words.")
    marks: tuple[str, ...] = Field(default=(), description="What is known of its runtime that qualifies its figures.")
