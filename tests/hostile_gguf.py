"""Writes GGUF files, byte by byte."""

import struct


def gguf_text(text: str | bytes) -> bytes:
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def field(key: str, kind: int, value: bytes) -> bytes:
    return gguf_text(key) + struct.pack("<I", kind) + value


def gguf(
    fields: tuple[bytes, ...] = (),
    tensors: tuple[bytes, ...] = (),
    data: bytes = b"",
    version: int = 3,
    counts: tuple[int, int] | None = None,
    alignment: int = 32,
) -> bytes:
    head = struct.pack("<4sIQQ", b"GGUF", version, *(counts or (len(tensors), len(fields)))) + b"".join(
        fields + tensors
    )
    return head + b"\0" * (-len(head) % alignment) + data
