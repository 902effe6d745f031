"""MLflow's model registry: accepted variants as versions of a registered model, and their revocations.

Each manifest gets one version, once. Aliases point at the current versions; a revoked version loses its aliases.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from quantmill.records.report import RunSummary, VariantSummary
from quantmill.store.store import Store
from tasks.tracking import failing_in_a_line, is_empty

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_MANIFEST_TAG = "quantmill.manifest"
_REVOKED_TAG = "quantmill.revoked"


def register_version(client: "MlflowClient", model: str, variant: VariantSummary, manifest: str, run: str) -> str:
    """Return the number of the model's version for a manifest; create the version if there is none."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(model, description="Accepted variants; the bytes are in the store.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    if found := _versions(client, model, manifest):
        return str(found[0].version)
    tags = {
        _MANIFEST_TAG: manifest,
        "variant": variant.name,
        "format": variant.format,
        "bits": str(variant.bits),
        "size_bytes": str(variant.size_bytes),
        "perplexity": str(variant.perplexity),
        "mean_kl": str(variant.mean_kl),
    }
    made = client.create_model_version(
        model,
        source=f"quantmill://{model}/{variant.name}@{manifest}",
        run_id=run,
        tags=tags,
        description=", ".join([variant.name, *variant.marks]),
        await_creation_for=0,  # Nothing is copied, so there is nothing to wait for.
    )
    # Another writer may have created a version at the same time, or the client repeated a request whose answer was lost.
    first, *_ = _versions(client, model, manifest) or [made]
    if first.version != made.version:
        client.delete_model_version(model, str(made.version))
    return str(first.version)


def move_aliases(client: "MlflowClient", summary: RunSummary, versions: Mapping[str, str]) -> None:
    """Point each variant's alias at its version, and the `best-` aliases at this run's picks."""
    aliases = {alias(name): version for name, version in versions.items()}
    aliases |= {f"best-{goal}": versions[name] for goal, name in summary.picks.items() if name in versions}
    for name, version in aliases.items():
        client.set_registered_model_alias(summary.model, name, version)


def alias(variant: str) -> str:
    """Return an alias for a variant that MLflow accepts: without dots, and not `latest` or like `v1`."""
    name = re.sub(r"[^\w-]", "-", variant, flags=re.ASCII)
    return f"variant-{name}" if re.fullmatch(r"(?i)latest|v\d+", name) else name


def show_revocations(store: Store, model: str, uri: str) -> int:
    """Mark the revoked versions of a model in MLflow; return how many were not marked before.

    Raises:
        RegistrationError: MLflow cannot be reached or refuses.
    """
    withdrawn = store.revoked(model)
    if not withdrawn or is_empty(uri):
        return 0
    shown = 0
    with failing_in_a_line(uri, "`quantmill register` marks the revoked versions there") as client:
        for variant, digest in withdrawn:
            revocation = store.revocation(model, variant, digest)
            for version in _versions(client, model, digest) if revocation else []:
                shown += _show(client, version, revocation.reason if revocation else "")
    return shown


def _show(client: "MlflowClient", version: "ModelVersion", reason: str) -> bool:
    """Mark a version as revoked and delete its aliases; return False if it was marked already."""
    aliases = client.get_registered_model(version.name).aliases
    for name in [name for name, number in aliases.items() if str(number) == str(version.version)]:
        client.delete_registered_model_alias(version.name, name)
    if version.tags.get(_REVOKED_TAG) == reason:
        return False
    client.update_model_version(version.name, str(version.version), f"REVOKED: {reason}")
    client.set_model_version_tag(version.name, str(version.version), _REVOKED_TAG, reason)
    return True


def _versions(client: "MlflowClient", model: str, manifest: str) -> "list[ModelVersion]":
    """Return the model's versions for a manifest, in the order of their numbers."""
    found = client.search_model_versions(f"name = '{model}' and tags.`{_MANIFEST_TAG}` = '{manifest}'")
    return sorted(found, key=lambda version: int(version.version))
