"""Reads the header of a GGUF file, and rejects it unless its tensors fill the file without gaps.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Like llama.cpp, this reader is stricter than that page: it
limits dimensions and names, allows no arrays of arrays, and wants tensors in the order of their offsets without gaps. It never
allocates memory by a count that the file states.
"""

import math
import mmap
import struct
from pathlib import Path
from typing import NamedTuple

from quantmill.errors import VerificationError

_STRING, _ARRAY, _UINT32 = 8, 9, 4
_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, _UINT32: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # type of a value -> bytes
_FIELDS, _TENSORS, _NAME_BYTES, _KEY_BYTES, _DIMENSIONS = 100_000, 1_000_000, 63, 65_535, 4
_STRINGS = 4_000_000  # in all arrays: a vocabulary and its merges have fewer
_HEADER_BYTES = 512 << 20
_LARGEST = 1 << 63
# Type of a tensor -> weights of a block, bytes of a block (ggml-common.h).
BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66),
    17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136),
    24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54),
    35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18),
}  # fmt: skip


class Header(NamedTuple):
    """The parts of a GGUF header that are used here."""

    tensors: dict[str, tuple[int, ...]]
    """Name -> shape, the fastest dimension first."""
    chat_template: str
    """The chat template; empty: none."""


def read_header(path: Path) -> Header:
    """Return the tensors and the chat template from a GGUF's header; reads no tensor.

    Raises:
        VerificationError: the file has no valid header, is cut short, or its tensors do not fill it.
    """
    with path.open("rb") as file:
        start = file.read(24)
        if start[:4] != b"GGUF":
            raise VerificationError(f"is not a GGUF file: it starts with {start[:4]!r}, not b'GGUF'")
        if len(start) < 24:
            raise VerificationError(f"the GGUF is cut short: {len(start)} bytes")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(data).read()


class _Reader:
    """A position in the header, and the state of the parser."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at, self._size = data, 0, len(data)
        self._strings = 0
        self._alignment, self._template = 32, ""

    def read(self) -> Header:
        _, version, tensors, fields = self._take("<4sIQQ")
        if version not in (2, 3):
            raise VerificationError(f"GGUF version {version}; versions 2 and 3, little-endian, are read")
        if tensors > _TENSORS or fields > _FIELDS:
            raise VerificationError(f"the GGUF is broken: it states {tensors} tensors and {fields} fields")
        keys = set[str]()
        for _ in range(fields):
            key = self._text(_KEY_BYTES)
            if key in keys:
                raise VerificationError(f"the GGUF is broken: the key {key[:80]!r} occurs twice")
            keys.add(key)
            self._value(key)
        places = [self._tensor() for _ in range(tensors)]
        if len({name for name, _, _, _ in places}) < len(places):
            raise VerificationError("the GGUF is broken: two tensors have one name")
        end = self._aligned(self._at)
        start = end
        for name, _, offset, size in places:
            if start + offset != end:
                raise VerificationError(f"the GGUF is broken: {name!r} does not follow the tensor before it")
            if end + size > self._size:
                raise VerificationError(f"the GGUF is cut short: {name} ends after its {self._size} bytes")
            end = self._aligned(end + size)
        if places and self._size > end:
            raise VerificationError(f"the GGUF is broken: {self._size - end} bytes follow its last tensor")
        return Header({name: shape for name, shape, _, _ in places}, self._template)

    def _take(self, form: str) -> tuple[int, ...]:
        try:
            values = struct.unpack_from(form, self._data, self._at)
        except struct.error as error:
            raise VerificationError("the GGUF is cut short or broken") from error
        self._skip(struct.calcsize(form))
        return values

    def _skip(self, size: int) -> None:
        self._at += size
        if self._at > min(self._size, _HEADER_BYTES):
            raise VerificationError("the GGUF is cut short or broken")

    def _bytes(self, most: int) -> bytes:
        (length,) = self._take("<Q")
        if length > most:
            raise VerificationError(f"the GGUF is broken: a text has {length} bytes, at most {most} are allowed")
        begin = self._at
        self._skip(length)
        return self._data[begin : self._at]

    def _text(self, most: int) -> str:
        try:
            return self._bytes(most).decode("utf-8")
        except UnicodeDecodeError as error:
            raise VerificationError("the GGUF is broken: a name is not UTF-8") from error

    def _value(self, key: str) -> None:
        (kind,) = self._take("<I")
        if key == "general.alignment":
            (self._alignment,) = self._take("<I") if kind == _UINT32 else (0,)
            if self._alignment not in [1 << power for power in range(3, 17)]:
                raise VerificationError(f"the GGUF is broken: an alignment of {self._alignment}")
        elif key == "tokenizer.chat_template" and kind == _STRING:
            self._template = self._text(1 << 20)
        elif kind == _STRING:
            self._skip(*self._take("<Q"))
        elif kind == _ARRAY:
            self._array(key)
        else:
            self._skip(self._width(kind, key))

    def _array(self, key: str) -> None:
        kind, count = self._take("<IQ")
        if kind != _STRING:
            return self._skip(count * self._width(kind, key))
        self._strings += count
        if self._strings > _STRINGS:
            raise VerificationError(f"the GGUF is broken: {key[:80]!r} has {count} texts")
        for _ in range(count):
            self._skip(*self._take("<Q"))
        return None

    def _width(self, kind: int, key: str) -> int:
        if kind not in _SCALARS:
            raise VerificationError(f"the GGUF is broken: {key[:80]!r} is of unknown type {kind}")
        return _SCALARS[kind]

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """Return a tensor's name, shape, offset and length in bytes."""
        name = self._text(_NAME_BYTES)
        (dimensions,) = self._take("<I")
        if not 1 <= dimensions <= _DIMENSIONS:
            raise VerificationError(f"the GGUF is broken: {name!r} has {dimensions} dimensions")
        shape = self._take(f"<{dimensions}Q")
        kind, offset = self._take("<IQ")
        if kind not in BLOCKS:
            raise VerificationError(f"the GGUF is broken: {name!r} is of unknown type {kind}")
        weights, size = BLOCKS[kind]
        elements = math.prod(shape)
        if not 0 < elements < _LARGEST or shape[0] % weights:
            raise VerificationError(f"the GGUF is broken: {name!r} has a shape that its type cannot have")
        return name, shape, offset, elements // weights * size

    def _aligned(self, place: int) -> int:
        return -(-place // self._alignment) * self._alignment
