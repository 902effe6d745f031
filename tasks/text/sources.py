"""Reads the documents of calibration and evaluation texts; each document belongs to one side only.

Promises about the two sides, calibration and evaluation, for all files, seeds, lengths and weights:

- The sha256 of a document's words decides its side (white space does not count). So no document is on both sides, and the
  content of one file never moves a document of another. Equal documents of one token set count once.
- A document is a paragraph of a text (or a piece of about 2,000 characters of a long paragraph), or a row's whole text,
  or a row's whole conversation (the words of all its messages, of all roles).
- So a row that is one paragraph has the same side as that paragraph in a text file, and a conversation of one message the
  same side as a row with its text. JSONL, packed JSONL, Parquet and data sets do not differ.

Not promised: a paragraph inside a longer row may be on the other side in a text file or in another row. Texts that differ
in one word are two documents.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Literal

from quantmill.errors import TextError
from quantmill.files import keys
from quantmill.recipe.texts import DATASET, TextSource
from tasks.builtin_text import builtin_text
from tasks.text.forms import form_of
from tasks.text.rows import Document, documents, lines

Role = Literal["calibration", "evaluation"]
_LONG_SIGNS = 2000
_LEAST_BYTES = 4 << 20
_BYTES_A_TOKEN = 16
_HASHED_AT_ONCE = 64 << 20


def take(source: TextSource, role: Role, tokens: int, where: str) -> list[Document]:
    """Return the documents of one side, in the source's order, without repetitions.

    Reading ends when the side holds 16 bytes for each of `tokens`, and at least 4 MiB: memory depends on the request, not
    on the file. The rest of the file is never read; shuffle a file that is sorted by topic first.

    Args:
        source: the text to read.
        role: the side.
        tokens: number of tokens wanted from the source.
        where: the prefix of the recipe's field in errors: `calibration.` or `calibration.mix[1].`.

    Raises:
        TextError: the source is missing, or has another format than its name says.
    """
    limit = max(_LEAST_BYTES, _BYTES_A_TOKEN * tokens)
    if source.kind == "dataset":
        from tasks.text import rows_hub

        return rows_hub.take(source, role, limit, where)
    return on_side(_documents(source, where), role, limit)


def on_side(found: Iterable[Document], role: Role, limit: int) -> list[Document]:
    """Return the documents on the side of `role`, without repetitions, up to about `limit` bytes of words."""
    kept, held = dict[str, Document](), 0
    for document in found:
        if side_of_words(document.words) == role and document.words not in kept:
            kept[document.words] = document
            held += len(document.words.encode())
            if held >= limit:
                break
    return list(kept.values())


def side_of_words(words: str) -> Role:
    """Return the side of a document with these words."""
    return "evaluation" if hashlib.sha256(words.encode()).digest()[0] % 2 else "calibration"


def paragraphs(text: Iterable[str]) -> Iterator[Document]:
    """Yield the paragraphs of a text, long ones in pieces of about 2,000 characters cut at line ends.

    Args:
        text: the lines of the text, without line ends.
    """
    held, signs = list[str](), 0
    for line in chain(_parted(text), [None]):
        if line is None:
            yield from _document("\n".join(held).strip("\n"))
            held, signs = [], 0
            continue
        for part in (line + "\n").splitlines():
            held.append(part)
            signs += len(part)
            if signs >= _LONG_SIGNS:
                yield from _document("\n".join(held))
                held, signs = [], 0


def _parted(text: Iterable[str]) -> Iterator[str | None]:
    """Yield the lines, with None for each blank line that separates two paragraphs.

    The first line of a paragraph never separates, even if blank.
    """
    first, blank = True, None
    for line in text:
        if blank is not None:
            yield None
            first, blank = True, None
        if not first and not line.strip(" \t\r"):
            blank = line
            continue
        first = False
        yield line
    if blank is not None:
        yield blank  # the last line separates nothing


def _document(text: str) -> Iterator[Document]:
    if words := " ".join(text.split()):
        yield Document(words, text)


def _documents(source: TextSource, where: str) -> Iterator[Document]:
    if source.kind == "builtin":
        return paragraphs(builtin_text().split("\n"))
    path = locate(source, where)
    kind = form_of(path, source.kind, where)
    if kind == "text":
        return paragraphs(lines(path, False, where))
    return documents(path, kind, source.field, where)


def locate(source: TextSource, where: str) -> Path:
    """Return the path of a file of text or rows.

    Raises:
        TextError: the path does not exist, or is no plain file.
    """
    shown = f"{where}source: {source.source[:80]}"
    try:
        path = Path(source.source).expanduser()
        if not path.exists():
            raise TextError(f"{shown}: no such file or directory")
        if not path.is_file():
            raise TextError(f"{shown}: not a plain file")
    except OSError as error:
        raise TextError(f"{shown}: {(error.strerror or 'cannot be read').lower()}") from error
    except (RuntimeError, ValueError) as error:
        raise TextError(f"{shown}: {error}") from error
    return path


def identity(source: TextSource, where: str, home: Path) -> dict[str, str]:
    """Return the identity of a source: sources with equal identities have equal documents.

    `sha256` is the digest of a file's bytes; the digest of a large file is cached by the file's size and times. For a data
    set `sha256` covers its name, subset, split and commit, and the hub is not asked.
    """
    if source.kind == "builtin":
        return {"kind": "builtin", "sha256": hashlib.sha256(builtin_text().encode()).hexdigest()}
    if source.kind == "dataset":
        name = source.source.removeprefix(DATASET)
        place = {"name": name, "subset": source.subset, "split": source.split, "revision": source.revision}
        return {"kind": "dataset", "field": source.field, "sha256": keys.digest(place)}
    path = locate(source, where)
    kind = form_of(path, source.kind, where)
    return {"kind": kind, "field": source.field, "sha256": _file_digest(path, where, home)}


def _file_digest(path: Path, where: str, home: Path) -> str:
    try:
        state = path.stat()
        if state.st_size <= _HASHED_AT_ONCE:
            return keys.file_sha256(path)
        seen = [str(path.absolute()), state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
        memo = home / "texts" / keys.digest(seen)
        if not memo.exists():
            memo.parent.mkdir(parents=True, exist_ok=True)
            whole = memo.with_suffix(f".{os.getpid()}")
            whole.write_text(keys.file_sha256(path), encoding="utf-8")
            whole.replace(memo)  # atomic: nobody reads half a digest
        return memo.read_text(encoding="utf-8")
    except OSError as error:
        raise TextError(f"{where}source: {path}: {(error.strerror or 'cannot be read').lower()}") from error
