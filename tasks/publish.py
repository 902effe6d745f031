"""Stage 8: accepted variants become versions in the store. Their bytes are there already, so this is a small commit."""

import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from quantmill import keys, signing
from quantmill.artifact import TokenSet, VariantJob
from quantmill.errors import VerificationError
from quantmill.manifest import Manifest, ManifestEvaluation, ManifestModel, Provenance, Safety, Version
from quantmill.recipe import Recipe
from quantmill.report import BaselineMetrics, EvaluationReport, Outcome, Verdict
from quantmill.store import channels
from quantmill.store.channels import Channel, read_channel
from quantmill.store.store import Store
from quantmill.texts import TextSource
from tasks import engines, model_card
from tasks.marks import marks_of


def build_manifest(
    recipe: Recipe,
    job: VariantJob,
    outcome: Outcome,
    baseline: Outcome | None = None,
    noise_floor: Mapping[str, float] | None = None,
) -> Manifest:
    """Return the manifest of an accepted variant: equal inputs and decisions give equal bytes.

    Its files are the artifact's; see `with_card`.
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
            marks=marks_of(job, outcome, noise_floor or {}),
        ),
        files=artifact.files,
        safety=Safety(
            formats=_endings(file.path for file in artifact.files),
            chat_template_sha256=artifact.chat_template_sha256 or template,
        ),
        license=(job.checkpoint.license if job.checkpoint else "") or origin.license,
    )


def with_card(manifest: Manifest, store: Store) -> Manifest:
    """Return the manifest with its model card among the files; the card is stored.

    HQQ's artifact has a README.md that says how it is loaded: those lines go into the card, which takes its place. A
    checkpoint that was taken as it is may have a card of its own, which is kept under another name.
    """
    held = {file.path: file for file in manifest.files}
    own, loader = held.pop(model_card.NAME, None), ""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / model_card.NAME
        if own and manifest.variant["method"] == "imported":
            held[model_card.ORIGINAL] = own.model_copy(update={"path": model_card.ORIGINAL})
        elif own:
            store.fetch((own,), Path(folder))
            loader = place.read_text(encoding="utf-8").partition("\n\n")[2]
            place.unlink()  # it may be a link to the artifact's own
        place.write_text(model_card.model_card(manifest, loader), encoding="utf-8")
        held |= {file.path: file for file in store.add_folder(Path(folder))}
    safety = Safety(formats=_endings(held), chat_template_sha256=manifest.safety.chat_template_sha256)
    return manifest.model_copy(update={"files": tuple(held[path] for path in sorted(held)), "safety": safety})


def _endings(paths: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({path.rpartition(".")[2] for path in paths}))


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


class Published(NamedTuple):
    """What became of accepted variants."""

    manifests: dict[str, str]
    """Variant -> digest of its manifest."""
    held_back: dict[str, str]
    """Variant -> why it was not published."""


def commit_accepted(
    recipe: Recipe,
    jobs: list[VariantJob],
    outcomes: Mapping[str, Outcome],
    verdicts: Mapping[str, Verdict],
    store: Store,
    noise_floor: Mapping[str, float],
    forbidden: Mapping[str, str],
    flow_run: str = "",
    signing_key: Path | None = None,
) -> Published:
    """Publish every accepted variant; what was published before stays as it is.

    Args:
        recipe: what was asked for.
        jobs: all variants.
        outcomes: what was made and measured, the baseline's too.
        verdicts: what was decided.
        store: where to.
        noise_floor: runtime -> mean KL of the baseline's own weights.
        forbidden: variant -> why it may not be published, by its licence.
        flow_run: for the provenance.
        signing_key: signs each; None: they are published unsigned.

    Raises:
        BlobMissing: a file of an artifact is not in the store any more.
        SigningError: the process with the signing key failed; later variants are not published.
    """
    manifests, held_back = dict[str, str](), dict[str, str]()
    for job in jobs:
        if verdicts[job.name].status != "accepted":
            continue
        if why := forbidden.get(job.name):
            held_back[job.name] = why
            continue
        manifest = _manifest(recipe, job, outcomes, store, noise_floor)
        if revoked := store.revocation(recipe.model_name, job.name, manifest.digest):
            held_back[job.name] = f"not published: version {manifest.digest[:12]} was revoked: {revoked.reason}"
            continue
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
        manifests[job.name] = manifest.digest
    return Published(manifests, held_back)


def promote(recipe: Recipe, manifests: Mapping[str, str], store: Store) -> int:
    """Move the recipe's channel to these versions and return its sequence number; 0: there is no such channel.

    A version that the channel held before is not made current again: whoever moved the channel on, or back, meant it.
    """
    model, name = recipe.model_name, recipe.publish.channel
    held = read_channel(store, model, name) if name else None
    if name and (fresh := missing_from(held, manifests)):
        held = channels.promote(store, model, name, fresh, f"compress {recipe.model.source}")
    return held.seq if held else 0


def missing_from(channel: Channel | None, manifests: Mapping[str, str]) -> dict[str, str]:
    """Return the versions that a channel never held, as far as its history goes."""
    moves = channel.moves if channel else ()
    known = {(variant, digest) for move in moves for variant, digest in move.variants.items()}
    return {variant: digest for variant, digest in manifests.items() if (variant, digest) not in known}


def attest_published(
    recipe: Recipe,
    jobs: list[VariantJob],
    outcomes: Mapping[str, Outcome],
    store: Store,
    noise_floor: Mapping[str, float],
    signing_key: Path,
) -> bool:
    """Sign versions of these variants that were published before without this key; False where one is not published.

    What is signed is made anew of what this run has of its own; only when and where it was made is the store's word.

    Raises:
        BlobMissing, VerificationError: the store does not hold the version's bytes any more.
        SigningError: the process with the signing key failed.
    """
    for job in jobs:
        manifest = _manifest(recipe, job, outcomes, store, noise_floor)
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


def _manifest(
    recipe: Recipe,
    job: VariantJob,
    outcomes: Mapping[str, Outcome],
    store: Store,
    noise_floor: Mapping[str, float],
) -> Manifest:
    """Return the whole manifest of a variant of a run, its card stored."""
    baseline = next((o for o in outcomes.values() if o.artifact and o.artifact.spec.method == "baseline"), None)
    return with_card(build_manifest(recipe, job, outcomes[job.name], baseline, noise_floor), store)


def _attestation(manifest: Manifest, provenance: Provenance, store: Store, key: Path | None) -> bytes:
    """Return the version's attestation: the one that it has where this key made it, else a new one; without a key none."""
    if key is None:
        return b""
    if held := store.attestation(manifest.digest):
        with suppress(VerificationError):
            signing.verify(held, manifest, signing.own_keyring(key))
            return held
    return signing.sign(manifest, provenance, key)
