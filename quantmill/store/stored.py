"""Reads records of other releases: unknown fields are ignored, a newer layout is an error.

A record without a layout has layout 1. A newer release adds fields under the same number if older readers may ignore the fields;
it takes a new number if older readers would misunderstand the record. Writers are strict: the types forbid unknown fields. Only
records from a store or a pulled folder are read here.
"""

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from quantmill.errors import LayoutTooNew, VerificationError
from quantmill.files import keys
from quantmill.records.manifest import Manifest, StoredManifest
from quantmill.store.objects import require_modest

LAYOUT = 1
"""The newest layout that this release reads, the same for every kind of record."""
LAYOUT_FIELD = "schema_version"

Record = TypeVar("Record", bound=BaseModel)


def parse(kind: type[Record], data: bytes, where: str, what: str = "") -> Record:
    """Return the record in `data`.

    Error messages begin with `where` and name the expected record `what`, such as `a channel`.

    Raises:
        LayoutTooNew: a newer release wrote the record in a layout that this release does not know.
        VerificationError: the bytes are not such a record.
    """
    require_layout(document(data, where, what), where)
    try:
        return kind.model_validate_json(data, extra="ignore")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise VerificationError(f"{_not(where, what)}: {field}: {' '.join(first['msg'].split())}") from error


def parse_manifest(data: bytes, where: str) -> StoredManifest:
    """Return the manifest in `data` together with these bytes.

    Raises:
        LayoutTooNew: a newer release wrote the manifest in a layout that this release does not know.
        VerificationError: the bytes are not a manifest, or not canonical JSON.
    """
    manifest = parse(Manifest, data, where)
    try:
        written = keys.canonical(document(data, where))
    except UnicodeEncodeError:
        written = b""
    except ValueError as error:
        raise VerificationError(f"{where}: holds a figure that is NaN or infinite") from error
    if written != data:  # otherwise equal content would have several digests
        raise VerificationError(f"{where}: not canonical JSON, as manifests must be")
    return StoredManifest(manifest, data)


def document(data: bytes, where: str, what: str = "") -> dict[str, Any]:
    """Return the JSON object in `data`, or raise VerificationError as `parse` does."""
    try:
        held = json.loads(require_modest(data, where))
    except (ValueError, RecursionError) as error:
        raise VerificationError(f"{_not(where, what)}: not JSON") from error
    if not isinstance(held, dict):
        raise VerificationError(f"{_not(where, what)}: not a JSON object")
    return held


def layout_of(record: dict[str, Any], where: str, field: str = LAYOUT_FIELD) -> int:
    """Return the number of a record's layout, or raise VerificationError if it is not a number from 1."""
    layout = record.get(field, 1)
    if type(layout) is not int or layout < 1:
        raise VerificationError(f"{where}: {field}: {str(layout)[:80]!r}: must be a number from 1")
    return layout


def require_layout(record: dict[str, Any], where: str) -> None:
    """Raise LayoutTooNew if a record has a newer layout than this release knows."""
    if (layout := layout_of(record, where)) > LAYOUT:
        raise LayoutTooNew(f"{where}: layout {layout} is of a newer release; this one reads {LAYOUT}")


def _not(where: str, what: str) -> str:
    return f"{where}: not {what}" if what else where
