"""Reads records that may be another release's: fields that are not known here are passed over, newer layouts are named.

A record that states no layout has layout 1. What a newer release adds without a new number may be passed over by a reader that
does not know it; a new number says that the record is not understood without it. Writers stay strict: the types forbid unknown
fields, and only what is read from a store or a pulled folder comes through here.
"""

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from quantmill.errors import LayoutTooNew, VerificationError
from quantmill.files import keys
from quantmill.records.manifest import Manifest, StoredManifest
from quantmill.store.objects import require_modest

LAYOUT = 1
"""The newest layout that is understood here, of every record."""
LAYOUT_FIELD = "schema_version"

Record = TypeVar("Record", bound=BaseModel)


def parse(kind: type[Record], data: bytes, where: str, what: str = "") -> Record:
    """Return the record that `data` holds; an error's line says that at `where` there is not `what`, such as `a channel`.

    Raises:
        LayoutTooNew: a newer release wrote it, in a layout that is not known here.
        VerificationError: the bytes are no such record.
    """
    require_layout(document(data, where, what), where)
    try:
        return kind.model_validate_json(data, extra="ignore")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise VerificationError(f"{_not(where, what)}: {field}: {' '.join(first['msg'].split())}") from error


def parse_manifest(data: bytes, where: str) -> StoredManifest:
    """Return the manifest that `data` holds, with these bytes, whose digest is the version's name.

    Raises:
        LayoutTooNew: a newer release wrote it, in a layout that is not known here.
        VerificationError: it is no manifest, or not in the one writing that a manifest has.
    """
    manifest = parse(Manifest, data, where)
    try:
        written = keys.canonical(document(data, where))
    except UnicodeEncodeError:
        written = b""
    except ValueError as error:
        raise VerificationError(f"{where}: holds a figure that is NaN or infinite") from error
    if written != data:  # else what one version says has many names
        raise VerificationError(f"{where}: not written as manifests are (canonical JSON)")
    return StoredManifest(manifest, data)


def document(data: bytes, where: str, what: str = "") -> dict[str, Any]:
    """Return the JSON object that `data` holds, or raise VerificationError as `parse` does."""
    try:
        held = json.loads(require_modest(data, where))
    except (ValueError, RecursionError) as error:
        raise VerificationError(f"{_not(where, what)}: not JSON") from error
    if not isinstance(held, dict):
        raise VerificationError(f"{_not(where, what)}: not a JSON object")
    return held


def layout_of(record: dict[str, Any], where: str, field: str = LAYOUT_FIELD) -> int:
    """Return the number of the layout that a record was written in, or raise VerificationError where that is no number."""
    layout = record.get(field, 1)
    if type(layout) is not int or layout < 1:
        raise VerificationError(f"{where}: {field}: {str(layout)[:80]!r}: must be a number from 1")
    return layout


def require_layout(record: dict[str, Any], where: str) -> None:
    """Raise LayoutTooNew unless a record's layout is known here."""
    if (layout := layout_of(record, where)) > LAYOUT:
        raise LayoutTooNew(f"{where}: layout {layout} is of a newer release; this one reads {LAYOUT}")


def _not(where: str, what: str) -> str:
    return f"{where}: not {what}" if what else where
