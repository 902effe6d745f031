"""Stage 8: accepted variants become versions in the store. Their bytes are there already, so this is a small commit."""

import time
from collections.abc import Mapping
from pathlib import Path

from quantmill import keys
from quantmill.artifact import TokenSet, VariantJob
from quantmill.manifest import Manifest, ManifestEvaluation, ManifestModel, Provenance, Safety, Version
from quantmill.recipe import Recipe
from quantmill.report import EvaluationReport, Outcome, Verdict
from quantmill.store.store import Store
from quantmill.texts import TextSource


def build_manifest(recipe: Recipe, job: VariantJob, outcome: Outcome, baseline: Outcome | None = None) -> Manifest:
    """Return the manifest of an accepted variant: equal inputs and decisions give equal bytes."""
    artifact, report = outcome.artifact, outcome.report
    if artifact is None or report is None:
        raise ValueError(f"{outcome.name}: nothing to publish")
    origin, calibration = job.snapshot.origin, job.calibration
    template = next((f.sha256 for f in artifact.files if f.path == "chat_template.jinja"), "")
    return Manifest(
        name=f"{recipe.model_name}/{job.name}",
        key=job.artifact_key,
        model=ManifestModel(
            uri=origin.request.source, revision=origin.digest, files=origin.files, notes=job.snapshot.notes
        ),
        variant=job.spec.canonical() | {"format": artifact.format},
        recipe_sha256=keys.digest(_concerns(recipe, job)),
        calibration=calibration_of(calibration) if calibration else {},
        toolchain=artifact.toolchain | {report.runtime: report.runtime_version},
        hardware=artifact.hardware,
        evaluation=ManifestEvaluation(
            suite=report.evaluation_digest,
            metrics=report.quality,
            speed=report.speed,
            bits_per_weight=artifact.bits_per_weight,
            gate=recipe.gates.model_dump(),
            report_sha256=keys.digest(report),
            perplexity_ratio=_ratio(report, baseline.report if baseline else None),
            runtime=report.runtime,
        ),
        files=artifact.files,
        safety=Safety(
            formats=tuple(sorted({file.path.rpartition(".")[2] for file in artifact.files})),
            chat_template_sha256=template,
        ),
        license=origin.license,
    )


def _ratio(report: EvaluationReport, baseline: EvaluationReport | None) -> float | None:
    return report.quality.perplexity / baseline.quality.perplexity if baseline else None


def calibration_of(tokens: TokenSet) -> dict[str, object]:
    """Return what a manifest says of calibration windows; of a local text its name, not where it lay."""
    said = {"sha256": tokens.digest, "text_sha256": tokens.text_sha256, **tokens.request.model_dump()}
    said["source"] = _name(tokens.request)
    if tokens.request.mix:
        pairs = zip(tokens.request.mix, tokens.texts, strict=True)
        said["mix"] = [{**text.model_dump(), "source": _name(text), "sha256": digest} for text, digest in pairs]
    return said | ({"template_sha256": tokens.template_digest} if tokens.template_digest else {})


def _name(text: TextSource) -> str:
    return text.source if text.kind in ("builtin", "dataset") else Path(text.source).name


def _concerns(recipe: Recipe, job: VariantJob) -> dict[str, object]:
    """Return the part of a recipe that this variant depends on: its siblings are none of it."""
    ignored = {"variants", "publish"} | (set() if job.calibration else {"calibration"})
    return recipe.model_dump(mode="json", exclude=ignored) | {"variant": job.spec.canonical()}


def commit_accepted(
    recipe: Recipe,
    jobs: list[VariantJob],
    outcomes: Mapping[str, Outcome],
    verdicts: Mapping[str, Verdict],
    store: Store,
    flow_run: str = "",
) -> dict[str, str]:
    """Publish every accepted variant and return variant -> manifest digest; what was published before stays as it is.

    Raises:
        BlobMissing: a file of an artifact is not in the store any more.
    """
    digests = {}
    baseline = next((o for o in outcomes.values() if o.artifact and o.artifact.spec.method == "baseline"), None)
    for job in jobs:
        if verdicts[job.name].status != "accepted":
            continue
        manifest = build_manifest(recipe, job, outcomes[job.name], baseline)
        provenance = Provenance(
            manifest=manifest.digest, recipe=recipe.model_dump(mode="json"), flow_run=flow_run, made_at=time.time()
        )
        version = Version(model=recipe.model_name, variant=job.name, manifest=manifest.digest, provenance=provenance)
        store.commit(manifest, version)
        digests[job.name] = manifest.digest
    return digests
