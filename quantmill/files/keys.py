"""Canonical JSON and the keys made from it; no other module makes keys.

A key is the sha256 of canonical JSON: object keys sorted, no white space, UTF-8, no NaN (the subset of RFC 8785 that
strings, integers, booleans and the shortest form of floats need).
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

_CHUNK_BYTES = 1 << 22


def canonical(value: Any) -> bytes:
    """Return the canonical JSON of a pydantic model or of plain JSON data.

    Raises:
        ValueError: a float is NaN or infinite.
    """
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def digest(value: Any) -> str:
    """Return the sha256, 64 hex digits, of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value)).hexdigest()


def stage_key(stage: str, **inputs: Any) -> str:
    """Return the key of a stage's result: equal inputs give equal keys, on every machine."""
    plain = {
        name: value.model_dump(mode="json") if isinstance(value, BaseModel) else value for name, value in inputs.items()
    }
    return digest({"stage": stage, "inputs": plain})


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, 64 hex digits, read in pieces of 4 MiB."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK_BYTES):
            state.update(piece)
    return state.hexdigest()
