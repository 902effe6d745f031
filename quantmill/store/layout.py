"""The keys of a store's objects.

blobs/sha256/ab/<hex>                                    immutable
stages/<stage>/<key>.json                                the cache: expires; replaceable if a blob is missing
manifests/sha256/<hex>.json                              immutable
attestations/<manifest-hex>.dsse.json                    immutable (signing.py)
models/<model>/<variant>/versions/<manifest-hex>.json    the commit point of a publish: create-only
models/<model>/<variant>/revoked/<manifest-hex>.json     a withdrawn version, with the reason: create-only
models/<model>/<variant>/records/<manifest-hex>/<kind>-<n>.json    later records about a version: create-only (side_records.py)
models/<model>/channels/<channel>.json                   compare-and-swap (channels.py)
landings/<model>/<revision>.json and .run                a landed model, and its run: create-only (tasks/landing/landings.py)
leases/<id>.json                                         protects a publish in progress from garbage collection
outbox/<time>-<random>.json                              runs that MLflow does not know yet (tasks/register/outbox.py)
sweep.json                                               a garbage collection at work (leases.py)
"""

from quantmill.errors import StoreError
from quantmill.files.paths import safe_name, safe_path

MODELS = "models/"
FOLDERS = ("attestations", "blobs", "landings", "leases", "manifests", "models", "outbox", "stages")
"""The folders of a store; only `sweep.json` is beside them."""


def blob_key(sha256: str) -> str:
    """Return the key of the blob with this digest."""
    return f"blobs/sha256/{sha256[:2]}/{sha256}"


def stage_key(stage: str, key: str) -> str:
    """Return the key of a stage's result."""
    return f"stages/{stage}/{key}.json"


def manifest_key(digest: str) -> str:
    """Return the key of the manifest with this digest."""
    return f"manifests/sha256/{safe_path(digest)}.json"


def attestation_key(digest: str) -> str:
    """Return the key of a manifest's attestation."""
    return f"attestations/{safe_path(digest)}.dsse.json"


def model_folder(model: str) -> str:
    """Return the prefix of all keys of a model; empty: the name is not allowed for a model."""
    try:
        return f"{MODELS}{safe_name(model)}/"
    except ValueError:
        return ""


def versions_folder(model: str, variant: str) -> str:
    """Return the prefix of the keys of a variant's version pointers."""
    return f"{_variant_folder(model, variant)}versions/"


def version_key(model: str, variant: str, digest: str) -> str:
    """Return the key of a version pointer."""
    return f"{versions_folder(model, variant)}{safe_path(digest)}.json"


def revocation_key(model: str, variant: str, digest: str) -> str:
    """Return the key of a version's revocation."""
    return f"{_variant_folder(model, variant)}revoked/{safe_path(digest)}.json"


def records_folder(model: str, variant: str, digest: str) -> str:
    """Return the prefix of the keys of a version's side records."""
    return f"{_variant_folder(model, variant)}records/{safe_path(digest)}/"


def digest_in(key: str) -> str:
    """Return the digest at the end of a key."""
    return key.rpartition("/")[2].partition(".")[0]


def _variant_folder(model: str, variant: str) -> str:
    try:
        return f"{MODELS}{safe_name(model)}/{safe_name(variant)}/"
    except ValueError as error:
        raise StoreError(f"{model!r}/{variant!r}: not plain names") from error
