"""Reads records that may be another release's: fields that are not known here are passed over, newer layouts are named.

Writers stay strict: the types forbid unknown fields, and only what is read from a store or a pulled folder comes through here.
"""

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from quantmill.errors import VerificationError
from quantmill.store.objects import require_modest

Record = TypeVar("Record", bound=BaseModel)


def parse(kind: type[Record], data: bytes, where: str) -> Record:
    """Return the record that `data` holds; `where` begins the errors' lines.

    Raises:
        VerificationError: the bytes are no such record.
    """
    try:
        return kind.model_validate_json(require_modest(data, where), extra="ignore")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise VerificationError(f"{where}: {field}: {' '.join(first['msg'].split())}") from error


def layout_of(data: bytes, where: str) -> int:
    """Return the number of the layout that a record was written in; 1 where it states none.

    Raises:
        VerificationError: the bytes are no JSON object, or its layout is no number.
    """
    layout = document(data, where).get("layout", 1)
    if type(layout) is not int or layout < 1:
        raise VerificationError(f"{where}: layout: {str(layout)[:80]!r}: must be a number from 1")
    return layout


def document(data: bytes, where: str) -> dict[str, Any]:
    """Return the JSON object that `data` holds, or raise VerificationError."""
    try:
        held = json.loads(require_modest(data, where))
    except (ValueError, RecursionError) as error:
        raise VerificationError(f"{where}: not JSON") from error
    if not isinstance(held, dict):
        raise VerificationError(f"{where}: not a JSON object")
    return held
