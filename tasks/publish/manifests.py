"""Makes the manifest of an accepted variant, with the model card.

The manifest says what the variant is, what it was made from, and what the evaluation measured.
"""

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from quantmill.files import keys
from quantmill.recipe.recipe import Recipe
from quantmill.recipe.texts import TextSource
from quantmill.records.artifact import TokenSet
from quantmill.records.job import VariantJob
from quantmill.records.manifest import CARD_PATH, Manifest, ManifestEvaluation, ManifestModel, Safety
from quantmill.records.report import BaselineMetrics, EvaluationReport, Outcome
from quantmill.records.run import Run
from quantmill.records.selection import perplexity_ratio
from quantmill.store.store import Store
from tasks.marks import marks_of
from tasks.publish import model_card


def published_manifest(run: Run, job: VariantJob, store: Store) -> Manifest:
    """Return the complete manifest of a run's variant, and store the model card."""
    manifest = build_manifest(run.recipe, job, run.outcomes[job.name], run.baseline, run.noise_floor)
    return with_card(manifest, store)


def build_manifest(
    recipe: Recipe,
    job: VariantJob,
    outcome: Outcome,
    baseline: Outcome | None = None,
    noise_floor: Mapping[str, float] | None = None,
) -> Manifest:
    """Return the manifest of an accepted variant, still without the model card (see `with_card`).

    Equal inputs and decisions give equal bytes.
    """
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
            windows=calibration_of(job.evaluation),
            baseline=BaselineMetrics.of(baseline).model_copy(update={"generations": ()}) if baseline else None,
            marks=marks_of(job, outcome, noise_floor or {}, baseline),
        ),
        files=artifact.files,
        safety=Safety(
            formats=_endings(file.path for file in artifact.files),
            chat_template_sha256=artifact.chat_template_sha256 or template,
        ),
        license=(job.checkpoint.license if job.checkpoint else "") or origin.license,
    )


def with_card(manifest: Manifest, store: Store) -> Manifest:
    """Store the model card and return the manifest with the card among its files.

    HQQ's artifact has a README.md with its loader: the card replaces this file and contains the loader. An imported
    checkpoint may have its own card, which is kept under another name.
    """
    held = {file.path: file for file in manifest.files}
    own, loader = held.pop(CARD_PATH, None), ""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / CARD_PATH
        if own and manifest.variant["method"] == "imported":
            held[model_card.ORIGINAL] = own.model_copy(update={"path": model_card.ORIGINAL})
        elif own:
            store.fetch((own,), Path(folder))
            loader = place.read_text(encoding="utf-8").partition("\n\n")[2]
            place.unlink()  # the file may be a link to the artifact's own README.md
        place.write_text(model_card.model_card(manifest, loader), encoding="utf-8")
        held |= {file.path: file for file in store.add_folder(Path(folder))}
    safety = Safety(formats=_endings(held), chat_template_sha256=manifest.safety.chat_template_sha256)
    return manifest.model_copy(update={"files": tuple(held[path] for path in sorted(held)), "safety": safety})


def _endings(paths: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({path.rpartition(".")[2] for path in paths}))


def _ratio(report: EvaluationReport, baseline: EvaluationReport | None) -> float | None:
    return perplexity_ratio(report.quality.perplexity, baseline.quality.perplexity) if baseline else None


def calibration_of(tokens: TokenSet) -> dict[str, object]:
    """Return what a manifest says about token windows; of a local text, the file name without its path."""
    said = {"sha256": tokens.digest, "text_sha256": tokens.text_sha256, **tokens.request.model_dump()}
    said["source"] = _name(tokens.request)
    if tokens.request.mix:
        pairs = zip(tokens.request.mix, tokens.texts, strict=True)
        said["mix"] = [{**text.model_dump(), "source": _name(text), "sha256": digest} for text, digest in pairs]
    return said | ({"template_sha256": tokens.template_digest} if tokens.template_digest else {})


def _name(text: TextSource) -> str:
    return text.source if text.kind in ("builtin", "dataset") else Path(text.source).name


def _concerns(recipe: Recipe, job: VariantJob) -> dict[str, object]:
    """Return the part of a recipe that this variant depends on, without the other variants."""
    ignored = {"variants", "publish"} | (set() if job.calibration else {"calibration"})
    return recipe.model_dump(mode="json", exclude=ignored) | {"variant": job.spec.canonical()}
