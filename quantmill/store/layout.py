"""Where a store keeps what, as keys of its objects.

blobs/sha256/ab/<hex>                                    immutable
stages/<stage>/<key>.json                                the cache: replaceable once a blob of it is missing, expiring
manifests/sha256/<hex>.json                              immutable
attestations/<manifest-hex>.dsse.json                    immutable (signing.py)
models/<model>/<variant>/versions/<manifest-hex>.json    the commit point of a publish: create-only
models/<model>/<variant>/revoked/<manifest-hex>.json     a version that was withdrawn, with the reason: create-only
models/<model>/<variant>/records/<manifest-hex>/<kind>-<n>.json    what was learned about a version later: create-only (side_records.py)
models/<model>/channels/<channel>.json                   compare-and-swap (channels.py)
landings/<model>/<revision>.json and .run                what landed, and which run took it: create-only (tasks/landing/landings.py)
leases/<id>.json                                         keeps a publish in progress from garbage collection
outbox/<time>-<random>.json                              runs that MLflow has not been told of (tasks/register/outbox.py)
sweep.json                                               a garbage collection at work (leases.py)
"""

from quantmill.errors import StoreError
from quantmill.files.paths import safe_name, safe_path

MODELS = "models/"
FOLDERS = ("attestations", "blobs", "landings", "leases", "manifests", "models", "outbox", "stages")
"""All that a store keeps is below these, and `sweep.json` beside them."""


def blob_key(sha256: str) -> str:
    """Return where the bytes with this digest lie."""
    return f"blobs/sha256/{sha256[:2]}/{sha256}"


def stage_key(stage: str, key: str) -> str:
    """Return where a stage's result lies."""
    return f"stages/{stage}/{key}.json"


def manifest_key(digest: str) -> str:
    """Return where the manifest with this digest lies."""
    return f"manifests/sha256/{safe_path(digest)}.json"


def attestation_key(digest: str) -> str:
    """Return where the attestation of a manifest lies."""
    return f"attestations/{safe_path(digest)}.dsse.json"


def model_folder(model: str) -> str:
    """Return where everything of a model lies; nothing where no model can have the name."""
    try:
        return f"{MODELS}{safe_name(model)}/"
    except ValueError:
        return ""


def versions_folder(model: str, variant: str) -> str:
    """Return where the pointers to a variant's versions lie."""
    return f"{_variant_folder(model, variant)}versions/"


def version_key(model: str, variant: str, digest: str) -> str:
    """Return where the pointer to a version lies."""
    return f"{versions_folder(model, variant)}{safe_path(digest)}.json"


def revocation_key(model: str, variant: str, digest: str) -> str:
    """Return where it is said that a version was withdrawn."""
    return f"{_variant_folder(model, variant)}revoked/{safe_path(digest)}.json"


def records_folder(model: str, variant: str, digest: str) -> str:
    """Return where the side records of a version lie."""
    return f"{_variant_folder(model, variant)}records/{safe_path(digest)}/"


def digest_in(key: str) -> str:
    """Return the digest that an object is named after."""
    return key.rpartition("/")[2].partition(".")[0]


def _variant_folder(model: str, variant: str) -> str:
    try:
        return f"{MODELS}{safe_name(model)}/{safe_name(variant)}/"
    except ValueError as error:
        raise StoreError(f"{model!r}/{variant!r}: not plain names") from error
