"""Stage 6: makes the summary of a run, which people and readers of `--json` get."""

from collections.abc import Mapping

from quantmill.records import selection
from quantmill.records.job import VariantJob
from quantmill.records.report import BaselineMetrics, RunSummary, VariantSummary
from quantmill.records.run import Run
from tasks.marks import marks_of


def summarize(
    run: Run, published: Mapping[str, str], held_back: Mapping[str, str], timings: Mapping[str, float]
) -> RunSummary:
    """Return the summary of a run, with the variants in the recipe's order.

    Args:
        run: the run with its outcomes and verdicts.
        published: variant -> digest of its manifest.
        held_back: accepted variant -> why it was not published.
        timings: stage -> seconds.
    """
    snapshot = run.variants[0].snapshot
    rows = tuple(_row(run, job, published.get(job.name)) for job in run.variants)
    rows = tuple(_held_back(row, held_back[row.name]) if row.name in held_back else row for row in rows)
    rows = tuple(row.model_copy(update={"better": selection.better_choice(row, rows)}) for row in rows)
    return RunSummary(
        model=run.recipe.model_name,
        source=run.recipe.model.source,
        source_digest=snapshot.origin.digest,
        source_notes=snapshot.notes,
        baseline=BaselineMetrics.of(run.baseline),
        timings={stage: round(seconds, 3) for stage, seconds in timings.items()},
        variants=rows,
        noise_floor=dict(run.noise_floor),
        pareto=selection.pareto_front(rows),
        picks=selection.picks(rows),
    )


def _held_back(row: VariantSummary, why: str) -> VariantSummary:
    return row.model_copy(update={"reasons": (*row.reasons, why), "marks": (*row.marks, "not published")})


def _row(run: Run, job: VariantJob, manifest: str | None) -> VariantSummary:
    outcome, verdict, baseline = run.outcomes[job.name], run.verdicts[job.name], BaselineMetrics.of(run.baseline)
    row = VariantSummary(
        name=job.name,
        method=job.spec.method,
        bits=job.spec.bits,
        format=job.spec.format,
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
            "perplexity_ratio": selection.perplexity_ratio(quality.perplexity, baseline.perplexity),
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
            "hardware": speed.hardware,
            "threads": speed.threads,
            "compute_dtype": speed.compute_dtype,
        }
        if timing := report.timing:
            measured |= {
                "decode_range": timing.decode_range,
                "prefill_range": timing.prefill_range,
                "others": timing.others,
            }
    marks = marks_of(job, outcome, run.noise_floor, run.baseline)
    return row.model_copy(update=measured | {"marks": (*marks, *outcome.tried)})
