"""Reads the header of a safetensors file, and rejects it unless it describes exactly the file's bytes.

The format: https://github.com/safetensors/safetensors#format - eight bytes of length, a JSON header, then the tensors without gaps.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from quantmill.errors import VerificationError

HEADER_BYTES = 100 << 20
_MARKS = 2_000_000  # brackets and commas, which bound the memory of a parsed header; a tensor has eight
_DIMENSIONS = 16
_LARGEST = 1 << 63
BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip


class Tensor(NamedTuple):
    """One entry of a header."""

    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, Tensor]:
    """Return tensor name -> type and shape from a file's header; reads no tensor.

    Raises:
        VerificationError: the file has no valid header, or its tensors do not fill the rest of the file without gaps.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(HEADER_BYTES, size - 8):
            raise VerificationError(f"not a safetensors file (a header of {length} bytes)")
        entries = _parse(file.read(length))
    tensors, spans = {}, []
    for name, entry in entries.items():
        if name == "__metadata__":
            if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
                raise VerificationError("not a safetensors file: its metadata is not text")
            continue
        tensors[name], span = _tensor(name, entry)
        spans.append(span)
    end = 0
    for first, last in sorted(spans):
        if first != end:
            raise VerificationError("not a safetensors file: its tensors overlap or leave a hole")
        end = last
    if end != size - 8 - length:
        raise VerificationError(f"not a safetensors file: its tensors take {end} bytes, it has {size - 8 - length}")
    return tensors


def _parse(header: bytes) -> dict[str, Any]:
    if header[:1] != b"{" or sum(map(header.count, (b"[", b"{", b","))) > _MARKS:
        raise VerificationError("not a safetensors file: its header is not a JSON object, or is too large for a model")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise VerificationError("not a safetensors file: its header names something twice")
        return found

    try:
        document = json.loads(header.decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise VerificationError("not a safetensors file: its header is not JSON") from error
    return dict(document)


def _tensor(name: str, entry: object) -> tuple[Tensor, tuple[int, int]]:
    """Return a tensor and the begin and end of its bytes."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise VerificationError(f"not a safetensors file: {name[:80]!r} is not a tensor")
    dtype, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise VerificationError(f"not a safetensors file: {name[:80]!r} is of unknown type {str(dtype)[:40]!r}")
    for values, most in ((shape, _DIMENSIONS), (span, 2)):
        if not isinstance(values, list) or len(values) > most or not all(type(v) is int and v >= 0 for v in values):
            raise VerificationError(f"not a safetensors file: {name[:80]!r} has no valid shape and offsets")
    bits = math.prod(shape) * BITS[dtype]
    if len(span) != 2 or bits % 8 or max(*shape, bits, *span) >= _LARGEST or span[1] - span[0] != bits // 8:
        raise VerificationError(f"not a safetensors file: {name[:80]!r} does not take the bytes that its shape needs")
    return Tensor(dtype, tuple(shape)), (span[0], span[1])
