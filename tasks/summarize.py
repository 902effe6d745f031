"""Stage 7: outcomes and verdicts -> the run's summary, the document that people and `--json` readers get."""

from collections.abc import Mapping

from quantmill import selection
from quantmill.artifact import Artifact, Snapshot, VariantJob
from quantmill.recipe import Recipe
from quantmill.report import BaselineMetrics, Outcome, RunSummary, VariantSummary, Verdict

NOTABLE_SHARE = 0.05
SAME_GRID_SHARE = 0.5


def summarize(
    recipe: Recipe,
    jobs: list[VariantJob],
    baseline: Outcome,
    outcomes: Mapping[str, Outcome],
    verdicts: Mapping[str, Verdict],
    published: Mapping[str, str],
    noise_floor: dict[str, float],
    timings: dict[str, float],
) -> RunSummary:
    """Return the summary, variants in the recipe's order."""
    snapshot = jobs[0].snapshot
    figures = _baseline(baseline)
    rows = tuple(
        _row(job, outcomes[job.name], verdicts[job.name], figures, noise_floor, published.get(job.name)) for job in jobs
    )
    rows = tuple(row.model_copy(update={"better": selection.better_choice(row, rows)}) for row in rows)
    return RunSummary(
        model=recipe.model_name,
        source=recipe.model.source,
        source_digest=snapshot.origin.digest,
        source_notes=snapshot.notes,
        baseline=figures,
        timings={stage: round(seconds, 3) for stage, seconds in timings.items()},
        variants=rows,
        noise_floor=noise_floor,
        pareto=selection.pareto_front(rows),
        picks=selection.picks(rows),
    )


def source_grid_share(artifact: Artifact, snapshot: Snapshot) -> float:
    """Return the share of weights that land on the grid they came from: the same GGUF type in source and artifact.

    Such a tensor loses next to nothing, whatever its type would cost a model that was never quantized.
    """
    same = [
        tensor.parameters
        for tensor in artifact.tensors
        if tensor.scheme == snapshot.source_types.get(tensor.name) and tensor.scheme not in ("F32", "F16", "BF16")
    ]
    return sum(same) / artifact.parameters


def _baseline(outcome: Outcome) -> BaselineMetrics:
    artifact, report = outcome.artifact, outcome.report
    if artifact is None or report is None:
        raise ValueError("no summary without a baseline")
    return BaselineMetrics(
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


def _row(
    job: VariantJob,
    outcome: Outcome,
    verdict: Verdict,
    baseline: BaselineMetrics,
    noise_floor: dict[str, float],
    manifest: str | None,
) -> VariantSummary:
    row = VariantSummary(
        name=job.name,
        method=job.spec.method,
        bits=job.spec.bits,
        format=job.spec.row.format,
        status=verdict.status,
        reasons=verdict.reasons,
        cached=outcome.cached,
        manifest=manifest,
    )
    measured: dict[str, object] = {}
    if artifact := outcome.artifact:
        measured |= {
            "size_bytes": artifact.size_bytes,
            "bits_per_weight": artifact.bits_per_weight,
            "quantize_s": artifact.quantize_s,
            "artifact": artifact.digest,
        }
    if report := outcome.report:
        quality, speed = report.quality, report.speed
        measured |= {
            "perplexity": quality.perplexity,
            "perplexity_ratio": quality.perplexity / baseline.perplexity,
            "mean_kl": quality.mean_kl,
            "p99_kl": quality.p99_kl,
            "top1_agreement": quality.top1_agreement,
            "decode_tokens_per_s": speed.decode_tokens_per_s,
            "prefill_tokens_per_s": speed.prefill_tokens_per_s,
            "peak_memory_bytes": speed.peak_memory_bytes,
            "evaluate_s": report.evaluate_s,
            "generations": report.generations,
            "kernel": speed.kernel,
            "repeats": speed.repeats,
        }
    return row.model_copy(update=measured | {"marks": _marks(job, outcome, noise_floor)})


def _marks(job: VariantJob, outcome: Outcome, noise_floor: dict[str, float]) -> tuple[str, ...]:
    marks = []
    if artifact := outcome.artifact:
        if source_grid_share(artifact, job.snapshot) > SAME_GRID_SHARE:
            marks.append(selection.SOURCE_GRID)
        if (share := artifact.fallback_share) > NOTABLE_SHARE:
            marks.append(f"{share:.0%} fallback")
        if artifact.given_up:
            marks.append(f"out of memory: {artifact.given_up}")
        if artifact.starved_experts:
            marks.append(f"{len(artifact.starved_experts)} starved experts")
    if (report := outcome.report) and report.quality.mean_kl <= noise_floor.get(report.runtime, 0.0):
        marks.append("within noise")
    return (*marks, *outcome.tried)
