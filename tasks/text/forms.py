"""Whether a file of text holds prose or rows of JSON, whatever the file is called.

Files of rows are often called `.json` or `.txt`. Rows that are read as prose would calibrate a model on braces and quotes.
"""

import json
import re
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from quantmill.errors import TextError
from quantmill.recipe.texts import TextKind
from tasks.text.rows import LINE_BYTES, whole_json

LIST_BYTES = 256 << 20
_HEAD_BYTES = 64 << 10
_TAG = re.compile(r"</?[A-Za-z!?][^<>]{0,300}>")
_MOST_TAGS = 0.4
_LINES = 20  # lines that are read to find the first two with content
_BEGUN = re.compile(r'\[\s*[\[{"]|\{\s*"')
_ROWS = 'write rows: a list [{"text": "..."}, ...], or one object {"text": "..."} a line'


def form_of(path: Path, named: TextKind, where: str) -> TextKind:
    """Return how a file is read: as its name says, or as rows if its content is JSON.

    Args:
        path: the file.
        named: the format by the file's name.
        where: the recipe's field, for messages.

    Raises:
        TextError: the file is JSON that holds no rows, or markup; the message says what to write.
    """
    if named not in ("text", "json"):
        return named
    begin = f"{where}source: {path.name}"
    try:
        state = path.stat()
        return _form(path, named, begin, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise TextError(f"{begin}: {(error.strerror or 'cannot be read').lower()}") from error


@lru_cache(maxsize=64)
def _form(path: Path, named: TextKind, begin: str, size: int, _changed: int) -> TextKind:
    with path.open("rb") as file:
        head = _decoded(file.read(_HEAD_BYTES))
        file.seek(0)
        lines = (_decoded(file.readline(LINE_BYTES)) for _ in range(_LINES if head[:1] == "{" else 0))
        objects = [isinstance(_parsed(line), dict) for line in islice(filter(None, lines), 2)]
    if objects[:1] == [True] and (named == "json" or all(objects)):
        return "jsonl"
    if _begins_json(head):
        if size > LIST_BYTES:
            raise TextError(f"{begin}: {size} bytes of JSON; at most {LIST_BYTES} are read whole; write one row a line")
        if isinstance(found := whole_json(path), list):
            return "json"
        if found is not None:
            raise TextError(f"{begin}: is one JSON object, which holds no rows; {_ROWS}")
    if named == "json":
        raise TextError(f"{begin}: is neither a list of rows nor one row a line; {_ROWS}")
    if head and (share := sum(map(len, _TAG.findall(head))) / len(head)) > _MOST_TAGS:
        raise TextError(f"{begin}: looks like markup ({share:.0%} of it are tags); take the text out of it first")
    return "text"


def _begins_json(head: str) -> bool:
    """Return whether a text begins like a JSON object, or like a list of objects or texts."""
    if not _BEGUN.match(head):
        return False
    try:
        json.JSONDecoder().raw_decode(head)
    except json.JSONDecodeError as error:
        return len(head) >= _HEAD_BYTES // 4 and (error.pos > len(head) - 8 or error.msg.startswith("Unterminated"))
    except RecursionError:
        return False
    return True


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", errors="replace").removeprefix("\ufeff").strip()


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
