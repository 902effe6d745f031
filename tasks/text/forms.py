"""What a file of text really holds: prose, or rows in JSON, whatever the file is called.

The field's files of rows are often called `.json` or `.txt`. Read as prose, a model would be calibrated on braces and quotes.
"""

import json
import re
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from quantmill.errors import TextError
from quantmill.recipe.texts import TextKind

LIST_BYTES = 256 << 20
LINE_BYTES = 16 << 20
_HEAD_BYTES = 64 << 10
_TAG = re.compile(r"</?[A-Za-z!?][^<>]{0,300}>")
_MOST_TAGS = 0.4
_BLANKS = 20  # lines that are looked at for the first two with content
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
        firsts = [
            line for line in islice((_decoded(file.readline(LINE_BYTES)) for _ in range(_BLANKS)), _BLANKS) if line
        ]
    objects = [isinstance(_parsed(line), dict) for line in firsts[:2]]
    if head[:1] == "{" and objects[:1] == [True] and (named == "json" or all(objects)):
        return "jsonl"
    if _begins_json(head):
        if size > LIST_BYTES:
            raise TextError(f"{begin}: {size} bytes of JSON; at most {LIST_BYTES} are read whole; write one row a line")
        if isinstance(found := _whole(path), list):
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


def rows_of_list(path: Path, where: str) -> list[tuple[str, dict[str, Any]]]:
    """Return place and content of each row of a JSON list; a text is a row with the field `text`.

    Raises:
        TextError: the file is too large to be read whole, or a member of the list is no row.
    """
    begin = f"{where}source: {path.name}"
    found = _whole(path)
    if not isinstance(found, list):
        raise TextError(f"{begin}: is no JSON list any more")
    rows = []
    for number, row in enumerate(found, start=1):
        if not isinstance(row, dict | str):
            raise TextError(f"{begin}: row {number}: must be an object or a text, is {type(row).__name__}")
        rows.append((f"row {number}", {"text": row} if isinstance(row, str) else row))
    return rows


def _whole(path: Path) -> Any:
    """Return the JSON that a whole file holds, or None: it is no JSON, or larger than a list may be."""
    try:
        return _parsed(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError):
        return None


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
