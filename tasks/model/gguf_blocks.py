"""A GGUF file's tensors and fields, with each long array as one block of bytes: to be imported late, for it imports gguf.

gguf's own reader makes three objects a token and three a merge, which takes seconds for a vocabulary that nobody looks at.
"""

import struct
from typing import Any, cast

import numpy
from gguf import GGUFReader, GGUFValueType, ReaderField

_Parts = tuple[int, list[Any], list[int], list[Any]]
_LONG = 1024  # more elements than a model has layers: a vocabulary


class BlockReader(GGUFReader):  # type: ignore[misc]  # gguf has no types
    """gguf's reader for those who ask for tensors, or whether a field is the same in two files."""

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
        """Return where an array's elements end."""
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
    """Return how many elements an array field has, from either reader."""
    return int(struct.unpack_from("<Q", b"".join(map(bytes, array.parts[3:5])), 4)[0])
