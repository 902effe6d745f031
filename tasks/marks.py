"""The marks that qualify a variant's figures, such as `source-grid`, `within noise`, `42% fallback`."""

from collections.abc import Mapping

from quantmill.records import selection
from quantmill.records.artifact import Artifact, Snapshot
from quantmill.records.job import VariantJob
from quantmill.records.report import Outcome
from tasks import arithmetic
from tasks.gibberish import too_short, unbound_rules

NOTABLE_SHARE = 0.05
SAME_GRID_SHARE = 0.5


def marks_of(
    job: VariantJob, outcome: Outcome, noise_floor: Mapping[str, float], baseline: Outcome | None = None
) -> tuple[str, ...]:
    """Return the marks of a variant.

    Args:
        job: the job of the variant.
        outcome: the artifact and the report of the variant.
        noise_floor: runtime -> mean KL of the baseline's unquantized weights in that runtime.
        baseline: the outcome of the baseline that the variant is compared with.
    """
    marks = []
    if artifact := outcome.artifact:
        itself = job.checkpoint is not None and job.checkpoint.digest == job.snapshot.origin.digest
        if itself or source_grid_share(artifact, job.snapshot) > SAME_GRID_SHARE:
            marks.append(selection.SOURCE_GRID)
        if (share := artifact.fallback_share) > NOTABLE_SHARE:
            marks.append(f"{share:.0%} fallback")
        if artifact.given_up:
            marks.append(f"out of memory: {artifact.given_up}")
        if artifact.starved_experts:
            marks.append(f"{len(artifact.starved_experts)} starved experts")
        if artifact.recut_ids:
            marks.append(f"{artifact.recut_ids} ids of runs differ")
    if report := outcome.report:
        own = report.quality.compute_dtype
        if report.quality.mean_kl <= max(noise_floor.get(report.runtime, 0.0), arithmetic.floor(own)):
            marks.append("within noise")
        reference = baseline.report.quality.compute_dtype if baseline and baseline.report else ""
        inexact = (("scored", own), ("reference", reference))
        marks += [f"{what} in {dtype}" for what, dtype in inexact if arithmetic.floor(dtype)]
        if baseline and baseline.report:
            marks += unbound_rules(baseline.report)
        if too_short(report):
            marks.append(f"too few tokens: {report.speed.generated_tokens} generated, repeats not looked for")
        if report.busy:
            marks.append(selection.BUSY)
    return (*marks, *outcome.marks)


def source_grid_share(artifact: Artifact, snapshot: Snapshot) -> float:
    """Return the share of weights whose GGUF type is the same in the source and in the artifact.

    Such a tensor loses almost nothing, because its values already lie on the grid of its type.
    """
    same = [
        tensor.parameters
        for tensor in artifact.tensors
        if tensor.scheme == snapshot.source_types.get(tensor.name) and tensor.scheme not in ("F32", "F16", "BF16")
    ]
    return sum(same) / artifact.parameters
