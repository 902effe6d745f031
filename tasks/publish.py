"""Stage 8: accepted variants become versions in the store. Their bytes are there already, so this is a small commit."""

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from quantmill import keys, signing
from quantmill.artifact import TokenSet, VariantJob
from quantmill.errors import VerificationError
from quantmill.manifest import Manifest, ManifestEvaluation, ManifestModel, Provenance, Safety, Version
from quantmill.recipe import Recipe
from quantmill.report import EvaluationReport, Outcome, Verdict
from quantmill.store.store import Store
from quantmill.texts import TextSource
from tasks import engines


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
    signing_key: Path | None = None,
) -> dict[str, str]:
    """Publish every accepted variant and return variant -> manifest digest; what was published before stays as it is.

    Raises:
        BlobMissing: a file of an artifact is not in the store any more.
        SigningError: the process with the signing key failed; later variants are not published.
    """
    digests = {}
    baseline = next((o for o in outcomes.values() if o.artifact and o.artifact.spec.method == "baseline"), None)
    for job in jobs:
        if verdicts[job.name].status != "accepted":
            continue
        manifest = build_manifest(recipe, job, outcomes[job.name], baseline)
        provenance = Provenance(
            manifest=manifest.digest,
            recipe=recipe.model_dump(mode="json"),
            flow_run=flow_run,
            resolved=job.snapshot.origin.resolved,
            lock_sha256=keys.file_sha256(engines.LOCK),
            made_at=time.time(),
        )
        version = Version(model=recipe.model_name, variant=job.name, manifest=manifest.digest, provenance=provenance)
        store.commit(manifest, version, _attestation(manifest, provenance, store, signing_key))
        digests[job.name] = manifest.digest
    return digests


def attest_published(
    recipe: Recipe, jobs: list[VariantJob], outcomes: Mapping[str, Outcome], store: Store, signing_key: Path
) -> bool:
    """Sign versions of these variants that were published before without this key; False where one is not published.

    What is signed is made anew of what this run has of its own; only when and where it was made is the store's word.

    Raises:
        BlobMissing, VerificationError: the store does not hold the version's bytes any more.
        SigningError: the process with the signing key failed.
    """
    for job in jobs:
        manifest = build_manifest(recipe, job, outcomes[job.name])
        found = store.versions(recipe.model_name, job.name)
        version = next((version for version in found if version.manifest == manifest.digest), None)
        if version is None:
            return False
        held = store.attestation(manifest.digest)
        provenance = version.provenance.model_copy(update={"recipe": recipe.model_dump(mode="json")})
        attestation = _attestation(manifest, provenance, store, signing_key)
        if attestation != held:
            store.commit(manifest, version, attestation)
    return True


def _attestation(manifest: Manifest, provenance: Provenance, store: Store, key: Path | None) -> bytes:
    """Return the version's attestation: the one that it has where this key made it, else a new one; without a key none."""
    if key is None:
        return b""
    if held := store.attestation(manifest.digest):
        with suppress(VerificationError):
            signing.verify(held, manifest, signing.own_keyring(key))
            return held
    return signing.sign(manifest, provenance, key)
