"""Stage 7: commits accepted variants as versions in the store, which already has their bytes."""

import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from quantmill import signing
from quantmill.errors import VerificationError
from quantmill.files import keys
from quantmill.recipe.recipe import Recipe
from quantmill.records.job import VariantJob
from quantmill.records.manifest import Manifest, Provenance, StoredManifest, Version
from quantmill.records.run import Run
from quantmill.store import channels
from quantmill.store.channels import Channel, read_channel
from quantmill.store.store import Store
from tasks import installed, processor
from tasks.publish.manifests import published_manifest


class Published(NamedTuple):
    """The result for the accepted variants of a run."""

    manifests: dict[str, str]
    """Variant -> digest of its manifest."""
    held_back: dict[str, str]
    """Variant -> why it was not published."""


def commit_accepted(run: Run, store: Store, signing_key: Path | None = None) -> Published:
    """Publish every accepted variant of a run; versions that were published before stay unchanged.

    Without a `signing_key`, versions are published unsigned.

    Raises:
        BlobMissing: the store no longer has a file of an artifact.
        SigningError: the process with the signing key failed; later variants are not published.
    """
    model, manifests, held_back = run.recipe.model_name, dict[str, str](), dict[str, str]()
    for job in run.variants:
        if run.verdicts[job.name].status != "accepted":
            continue
        if why := run.forbidden.get(job.name):
            held_back[job.name] = why
            continue
        manifest = published_manifest(run, job, store)
        if revoked := store.revocation(model, job.name, manifest.digest):
            held_back[job.name] = f"not published: version {manifest.digest[:12]} was revoked: {revoked.reason}"
            continue
        provenance = Provenance(
            manifest=manifest.digest,
            recipe=run.recipe.model_dump(mode="json"),
            flow_run=run.id,
            resolved=job.snapshot.origin.resolved,
            lock_sha256=keys.file_sha256(installed.LOCK),
            started_at=run.began_at,
            made_at=time.time(),
        )
        version = Version(model=model, variant=job.name, manifest=manifest.digest, provenance=provenance)
        if store.commit(manifest, version, _attestation(manifest, provenance, store, signing_key)):
            _record_speed(run, job, manifest, store)
        manifests[job.name] = manifest.digest
    return Published(manifests, held_back)


def _record_speed(run: Run, job: VariantJob, manifest: Manifest, store: Store) -> None:
    """Store a `speed` record beside a version: spread, arithmetic, and whether the machine was busy.

    The manifest has no fields for these facts, because older consumers would not know them.
    """
    report, kind = run.outcomes[job.name].report, job.processor or processor.of_this_machine()
    if report and report.timing:
        arithmetic = "bfloat16" if job.device != "cpu" else processor.arithmetic(kind)
        said = report.timing.model_dump(mode="json") | {"busy": report.busy, "arithmetic": arithmetic}
        store.add_record(run.recipe.model_name, job.name, manifest.digest, "speed", said)


def promote(recipe: Recipe, manifests: Mapping[str, str], store: Store) -> int:
    """Move the recipe's channel to these versions and return its sequence number; 0 without a channel.

    A version that the channel held before does not become current again: whoever moved the channel on or back meant to.
    """
    model, name = recipe.model_name, recipe.publish.channel
    held = read_channel(store, model, name) if name else None
    if name and (fresh := missing_from(held, manifests)):
        held = channels.promote(store, model, name, fresh, f"compress {recipe.model.source}")
    return held.seq if held else 0


def missing_from(channel: Channel | None, manifests: Mapping[str, str]) -> dict[str, str]:
    """Return the versions that a channel never held, according to its history."""
    moves = channel.moves if channel else ()
    known = {(variant, digest) for move in moves for variant, digest in move.variants.items()}
    return {variant: digest for variant, digest in manifests.items() if (variant, digest) not in known}


def attest_published(run: Run, names: Collection[str], store: Store, signing_key: Path) -> bool:
    """Sign the published versions of these variants; return False if a variant is not published.

    Manifest and recipe come from this run. The other facts of the provenance, such as its times, come from the store.

    Raises:
        BlobMissing, VerificationError: the store no longer has the version's bytes.
        SigningError: the process with the signing key failed.
    """
    for job in (job for job in run.variants if job.name in names):
        manifest = published_manifest(run, job, store)
        found = store.versions(run.recipe.model_name, job.name)
        version = next((version for version in found if version.manifest == manifest.digest), None)
        if version is None:
            return False
        held = store.attestation(manifest.digest)
        provenance = version.provenance.model_copy(update={"recipe": run.recipe.model_dump(mode="json")})
        attestation = _attestation(manifest, provenance, store, signing_key)
        if attestation != held:
            store.commit(manifest, version, attestation)
    return True


def _attestation(manifest: Manifest, provenance: Provenance, store: Store, key: Path | None) -> bytes:
    """Return the attestation of a version; empty without a key.

    A stored attestation that this key signed is kept; else the version is signed anew.
    """
    if key is None:
        return b""
    if held := store.attestation(manifest.digest):
        with suppress(VerificationError):
            signing.verify(held, StoredManifest.of(manifest), signing.own_keyring(key))
            return held
    return signing.sign(manifest, provenance, key)
