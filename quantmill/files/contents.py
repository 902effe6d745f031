"""Checks the contents of a model's files: weights, JSON, text, a SentencePiece vocabulary.

A file's name only decides which check the file must pass; a pickle, a program or an archive passes none of them. A file that
passes can be opened without running code from it. The checks say nothing about the model's quality.
"""

import json
import os
import re
import stat
from pathlib import Path, PurePosixPath
from typing import Any

from quantmill.errors import VerificationError
from quantmill.files import gguf_header, safetensors_header, walk
from quantmill.files.paths import safe_path

JSON_BYTES = 64 << 20
_TEXT_BYTES = 64 << 20
_MARKS = 16_000_000  # brackets and commas: a vocabulary of 262k with its merges has 2 million
_DEPTH = 64
_TEXTS = (".txt", ".md", ".jinja")
_TEXT_NAMES = ("LICENSE", "NOTICE", ".gitattributes")
_LICENCE = re.compile(r"(LICENSE|LICENCE|NOTICE|USE_POLICY)([._-]([\w.-]*\w)?)?(?<![._-])", re.ASCII)
ALLOWED = "*.safetensors, *.gguf, *.json, *.txt, *.md, *.jinja, *.model (SentencePiece), LICENSE, NOTICE"


def check_file(path: Path, name: str, incoming: bool = False) -> None:
    """Raise unless the bytes of `path` have the format that the name `name` stands for.

    Args:
        path: the file to read.
        name: the file's path in the model's folder.
        incoming: whether the file is of a source: references to code are then allowed, because taking in removes them.

    Raises:
        VerificationError: the bytes have another format; the message names the file.
    """
    try:
        safe_path(name)
        if not stat.S_ISREG(path.stat().st_mode):
            raise VerificationError("not a plain file")
        _check(path, PurePosixPath(name), incoming)
    except (VerificationError, ValueError) as error:
        raise VerificationError(f"{name}: {error}") from error
    except OSError as error:
        raise VerificationError(f"{name}: cannot be read ({error.strerror})") from error


def is_licence(name: str) -> bool:
    """Return whether a file states terms: LICENSE, NOTICE or USE_POLICY, with `.md`, `.txt` or no ending."""
    return _LICENCE.fullmatch(name) is not None and PurePosixPath(name).suffix in ("", ".md", ".txt")


def licence_name(name: str) -> str:
    """Return the name under which a licence file is published.

    Released consumers accept `.md`, `.txt`, LICENSE and NOTICE.
    """
    return name if PurePosixPath(name).suffix in _TEXTS or name in _TEXT_NAMES else f"{name}.txt"


def check_folder(folder: Path) -> None:
    """Raise VerificationError unless a folder holds only files that pass `check_file`, and folders."""
    try:
        for path, state in walk.below(folder):
            name = path.relative_to(folder).as_posix()
            if stat.S_ISLNK(state.st_mode):
                raise VerificationError(f"{name}: a link")
            if not stat.S_ISDIR(state.st_mode):
                check_file(path, name)
    except OSError as error:
        raise VerificationError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _check(path: Path, name: PurePosixPath, incoming: bool) -> None:
    if name.suffix == ".safetensors":
        safetensors_header.read_header(path)
    elif name.suffix == ".gguf":
        gguf_header.read_header(path)
    elif name.suffix == ".json":
        document = read_json(path)
        if not incoming and _refers_to_code(document):
            raise VerificationError("holds auto_map, which names code to run")
    elif name.suffix == ".model":
        _check_sentencepiece(_read(path, _TEXT_BYTES))
    elif name.suffix in _TEXTS or name.name in _TEXT_NAMES or (incoming and is_licence(name.name)):
        _check_text(_read(path, _TEXT_BYTES))
    else:
        raise VerificationError(f"not an allowed file; allowed are {ALLOWED}")


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        VerificationError: the file holds no JSON object, or one that is too large or too deep for a model.
    """
    data = _read(path, JSON_BYTES)
    if sum(map(data.count, (b"[", b"{", b","))) > _MARKS:
        raise VerificationError(f"a JSON file has at most {_MARKS} brackets and commas")
    try:
        document = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise VerificationError(f"not JSON: {' '.join(str(error).split())[:120]}") from error
    if not isinstance(document, dict):
        raise VerificationError("not a JSON object where one is needed")
    level: list[Any] = [document]
    for _ in range(_DEPTH):
        level = [part for held in level for part in _parts(held) if isinstance(part, dict | list)]
    if level:
        raise VerificationError(f"a JSON file is at most {_DEPTH} levels deep")
    return document


def _parts(held: Any) -> Any:
    return held.values() if isinstance(held, dict) else held


def _refers_to_code(document: dict[str, Any]) -> bool:
    waiting: list[Any] = [document]
    while waiting:
        held = waiting.pop()
        if isinstance(held, dict) and "auto_map" in held and not isinstance(held["auto_map"], int):
            return True  # a number would be the id of a token called auto_map
        waiting += [part for part in _parts(held) if isinstance(part, dict | list)]
    return False


def _read(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise VerificationError(f"{size} bytes; a file of this kind has at most {most}")
        return file.read(size)  # reading up to `most` would allocate more


def _check_text(data: bytes) -> None:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise VerificationError("not text in UTF-8") from error
    if "\0" in text:
        raise VerificationError("not text: it holds a NUL")


def _check_sentencepiece(data: bytes) -> None:
    """Raise unless the bytes are a message of sentencepiece_model.proto with at least one piece."""
    at, pieces = 0, 0
    while at < len(data):
        tag, at = _varint(data, at)
        length, at = _varint(data, at)
        field = tag >> 3
        if tag & 7 != 2 or not (1 <= field <= 5 or field >= 200) or length > len(data) - at:
            raise VerificationError("not a SentencePiece vocabulary")
        pieces += field == 1
        at += length
    if not pieces:
        raise VerificationError("not a SentencePiece vocabulary")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a varint of at most five bytes and the index of the byte after it."""
    number = 0
    for shift in range(0, 35, 7):
        if at >= len(data):
            break
        byte, at = data[at], at + 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise VerificationError("not a SentencePiece vocabulary")
