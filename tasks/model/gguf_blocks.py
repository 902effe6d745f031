"""Reads a GGUF file's tensors and fields, with each long array as one block of bytes.

gguf's own reader makes three objects for each token and each merge, which takes seconds for a vocabulary that nobody
needs. Import this module late, because it imports gguf.
"""

import struct
from typing import Any, cast

import numpy
from gguf import GGUFReader, GGUFValueType, ReaderField

_Parts = tuple[int, list[Any], list[int], list[Any]]
_LONG = 1024  # an array with more elements than a model has layers is a vocabulary


class BlockReader(GGUFReader):  # type: ignore[misc]  # gguf has no types
    """gguf's reader for callers that need tensors, or that compare the bytes of fields in two files."""

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> _Parts:
        if GGUFValueType(raw_type) != GGUFValueType.ARRAY:
            return cast("_Parts", super()._get_field_parts(orig_offs, raw_type))
        kind, count = GGUFValueType(int(self._get(orig_offs, numpy.uint32)[0])), self._get(orig_offs + 4, numpy.uint64)
        if count[0] < _LONG:
            return cast("_Parts", super()._get_field_parts(orig_offs, raw_type))
        start = orig_offs + 12
        end = self._end(start, kind, int(count[0]))
        return end - orig_offs, [self.data[orig_offs:end]], [0], [GGUFValueType.ARRAY, kind]

    def _end(self, start: int, kind: GGUFValueType, count: int) -> int:
        """Return the offset of the first byte after an array's elements."""
        if kind == GGUFValueType.STRING:
            for _ in range(count):
                start += 8 + int(struct.unpack_from("<Q", self.data, start)[0])
            return start
        if (plain := self.gguf_scalar_to_np.get(kind)) is not None:
            return start + count * int(numpy.dtype(plain).itemsize)
        for _ in range(count):
            start += int(self._get_field_parts(start, int(kind))[0])
        return start


def length(array: ReaderField) -> int:
    """Return the number of elements of an array field, for a field of either reader."""
    return int(struct.unpack_from("<Q", b"".join(map(bytes, array.parts[3:5])), 4)[0])
