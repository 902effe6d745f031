"""Reads rows of JSONL and Parquet files one by one, and the document in each row.

A file is read lazily, in pieces of bounded size: a line, or a batch of rows. The unpacked size of a packed file is
bounded too.
"""

import codecs
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from quantmill.errors import TextError
from quantmill.recipe.texts import TextKind

LINE_BYTES = 16 << 20
_BATCH_ROWS = 64
_BATCH_BYTES = 1 << 30
_BUFFER_BYTES = 1 << 20
_FREE_BYTES, _MAX_RATIO = 64 << 20, 100  # gzip shrinks text 3 to 10 times, a bomb a thousand times


class Document(NamedTuple):
    """A piece of text that is never split: a paragraph, a row's text, or a conversation."""

    words: str
    """The document's words joined by single blanks: documents with equal words count as one and share a side."""
    text: str
    messages: tuple[dict[str, str], ...] = ()


def documents(path: Path, kind: TextKind, field: str, where: str) -> Iterator[Document]:
    """Yield the documents of a file of rows, in file order; rows without words are skipped.

    Args:
        path: the file.
        kind: `json`, `jsonl`, `jsonl.gz` or `parquet`.
        field: the field that holds text or messages; empty: `text`, else `messages`.
        where: the prefix of the recipe's field in errors: `calibration.` or `calibration.mix[1].`.

    Raises:
        TextError: the file is not of this kind, or a row's field holds neither text nor messages.
    """
    if kind == "json":
        rows = _list_rows(path, where)
    elif kind == "parquet":
        rows = _parquet_rows(path, field, where)
    else:
        rows = _json_rows(path, kind == "jsonl.gz", where)
    yield from of_rows(rows, path.name, field, where)


def of_rows(rows: Iterator[tuple[str, dict[str, Any]]], name: str, field: str, where: str) -> Iterator[Document]:
    """Yield the document of each (position, row); an empty `field` is chosen from the first row's fields."""
    for place, row in rows:
        field = field or choose_field(list(row), name, where)
        if field not in row:
            raise TextError(f"{where}field: {name}: {place} has no field {field!r}; its fields: {_listed(row)}")
        if row[field] is None:
            continue
        made = _document(row[field], f"{where}source: {name}: {place}, {field}")
        if made.words:
            yield made


def choose_field(fields: list[str], name: str, where: str) -> str:
    """Return the field to read if the recipe names none: `text`, else `messages`."""
    for known in ("text", "messages"):
        if known in fields:
            return known
    raise TextError(f"{where}field: {name} has neither text nor messages; name one of its fields: {_listed(fields)}")


def _listed(fields: Iterable[str]) -> str:
    return " ".join(", ".join(fields).split())[:200] or "none"


def _document(value: Any, where: str) -> Document:
    """Return the document in a field's value; `where` begins every error message."""
    if isinstance(value, str):
        return Document(_words(value, where), value)
    if not isinstance(value, list):
        raise TextError(f"{where}: must be text or a list of messages, is {type(value).__name__}")
    messages = []
    for at, message in enumerate(value):
        spoken = message if isinstance(message, dict) else {}
        for key in ("role", "content"):
            if not isinstance(spoken.get(key), str):
                raise TextError(
                    f"{where}: message {at + 1} needs role and content, both text; {key} is missing or is no text"
                )
        messages.append({"role": spoken["role"], "content": spoken["content"]})
    return Document(_words(" ".join(m["content"] for m in messages), where), "", tuple(messages))


def _words(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TextError(f"{where}: half a surrogate pair at character {error.start}") from error
    return " ".join(text.split())


def whole_json(path: Path) -> Any:
    """Return the JSON that a whole file holds, or None if the file is no JSON in UTF-8."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None


def _list_rows(path: Path, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield place and content of each row of a JSON list; a text is a row with the field `text`."""
    begin = f"{where}source: {path.name}"
    if not isinstance(found := whole_json(path), list):
        raise TextError(f"{begin}: is no JSON list any more")
    for number, row in enumerate(found, start=1):
        if not isinstance(row, dict | str):
            raise TextError(f"{begin}: row {number}: must be an object or a text, is {type(row).__name__}")
        yield f"row {number}", {"text": row} if isinstance(row, str) else row


def _json_rows(path: Path, packed: bool, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(lines(path, packed, where), start=1):
        if not line.strip():
            continue
        begin = f"{where}source: {path.name}: line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            column = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise TextError(f"{begin}: not JSON: {' '.join(column.split())[:120]}") from error
        if not isinstance(row, dict):
            raise TextError(f"{begin}: a row is a JSON object, this is {type(row).__name__}")
        yield f"line {number}", row


def lines(path: Path, packed: bool, where: str) -> Iterator[str]:
    """Yield the lines of a UTF-8 file without their line ends (LF, CR or CR LF).

    Raises:
        TextError: the file is not UTF-8, has a line of more than 16 MiB, or is packed and broken or suspiciously large.
    """
    begin, at = f"{where}source: {path.name}", 0
    try:
        with path.open("rb") as raw, gzip.open(raw) if packed else raw as file:
            number = 0
            while line := file.readline(LINE_BYTES + 1):
                number += 1
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if len(line) > LINE_BYTES:
                    raise TextError(f"{begin}: line {number} is longer than {LINE_BYTES >> 20} MiB")
                yield from _decoded(line, begin, at)
                at += len(line)
                if packed:
                    _require_no_bomb(raw, at, begin)
    except (EOFError, OSError, zlib.error) as error:
        words = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise TextError(f"{begin}: cannot be read: {words[:120].lower()}") from error


def _decoded(line: bytes, begin: str, at: int) -> list[str]:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise TextError(f"{begin}: not UTF-8 (byte {at + error.start})") from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.removesuffix("\n").split("\n")


def _require_no_bomb(raw: IO[bytes], unfolded: int, begin: str) -> None:
    if unfolded > _FREE_BYTES and unfolded > _MAX_RATIO * raw.tell():
        raise TextError(f"{begin}: unpacks to more than {_MAX_RATIO} times its size; if this is right, unpack it first")


def _parquet_rows(path: Path, field: str, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow
    from pyarrow import parquet

    begin = f"{where}source: {path.name}"
    try:
        with parquet.ParquetFile(path, buffer_size=_BUFFER_BYTES) as file:
            fields = file.schema_arrow.names
            field = field or choose_field(fields, path.name, where)
            if field not in fields:
                raise TextError(f"{where}field: {path.name} has no field {field!r}; its fields: {_listed(fields)}")
            number = 0
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=[field]):
                if batch.nbytes > _BATCH_BYTES:
                    raise TextError(
                        f"{begin}: {len(batch)} rows unpack to {batch.nbytes} bytes; allowed: {_BATCH_BYTES}"
                    )
                for value in batch.column(0).to_pylist():
                    number += 1
                    yield f"row {number}", {field: value}
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise TextError(f"{begin}: not a Parquet file: {' '.join(str(error).split())[:120]}") from error
