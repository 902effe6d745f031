"""The signed statement about a version: in-toto statement v1 with an SLSA provenance v1 predicate.

Its subjects are the manifest and every file, by sha256; https://slsa.dev/spec/v1.0/provenance defines the other fields.
"""

from datetime import UTC, datetime
from typing import Any

from quantmill import __version__
from quantmill.records.manifest import MANIFEST_PATH, Manifest, Provenance, StoredManifest

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:quantmill:compress:v1"


def subjects(version: StoredManifest) -> list[dict[str, Any]]:
    """Return the statement's subjects: the manifest, by its path in a pulled folder, and its files."""
    named = [(MANIFEST_PATH, version.digest), *((file.path, file.sha256) for file in version.manifest.files)]
    return [{"name": name, "digest": {"sha256": digest}} for name, digest in named]


def statement(manifest: Manifest, provenance: Provenance) -> dict[str, Any]:
    """Return the statement about a version's builder, inputs and files, as JSON data."""
    return {
        "_type": STATEMENT_TYPE,
        "subject": subjects(StoredManifest.of(manifest)),
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "model": provenance.recipe.get("model", {}),
                    "recipe": provenance.recipe,
                    "variant": manifest.variant,
                },
                "resolvedDependencies": _dependencies(manifest, provenance),
            },
            "runDetails": {
                "builder": {"id": provenance.builder, "version": {"quantmill": __version__}},
                "metadata": {"finishedOn": _timestamp(provenance.made_at)}
                | ({"startedOn": _timestamp(provenance.started_at)} if provenance.started_at is not None else {})
                | ({"invocationId": provenance.flow_run} if provenance.flow_run else {}),
            },
        },
    }


def _dependencies(manifest: Manifest, provenance: Provenance) -> list[dict[str, Any]]:
    """Return the model, its files, the calibration windows and text, the lock, and the packages used."""
    model: dict[str, Any] = {
        "name": "model",
        "uri": manifest.model.uri,
        "digest": {"quantmill-files": manifest.model.revision},  # a digest over a set of files, known to Quantmill only
    }
    if provenance.resolved:
        model["annotations"] = {"resolved": provenance.resolved}
    found = [model]
    found += [{"name": f"model/{file.path}", "digest": {"sha256": file.sha256}} for file in manifest.model.files]
    names = {"sha256": "calibration windows", "text_sha256": "calibration text"}
    found += [
        {"name": name, "digest": {"sha256": manifest.calibration[key]}}
        for key, name in names.items()
        if key in manifest.calibration
    ]
    if provenance.lock_sha256:
        found.append({"name": "requirements.lock", "digest": {"sha256": provenance.lock_sha256}})
    return [*found, *({"uri": f"pkg:pypi/{name}@{version}"} for name, version in sorted(manifest.toolchain.items()))]


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
