"""What a file of text really holds: prose, or rows in JSON, whatever the file is called.

The field's files of rows are often called `.json` or `.txt`. Read as prose, a model would be calibrated on braces and quotes.
"""

import json
import re
from pathlib import Path
from typing import Any

from quantmill.errors import TextError
from quantmill.recipe.texts import TextKind

LIST_BYTES = 256 << 20
_HEAD_BYTES = 64 << 10
_TAG = re.compile(r"</?[A-Za-z!?][^<>]{0,300}>")
_MOST_TAGS = 0.4
_ROWS = 'write rows: a list [{"text": "..."}, ...], or one object {"text": "..."} a line'


def form_of(path: Path, named: TextKind, where: str) -> TextKind:
    """Return how a file is read: as its name says, or as rows where its content is JSON.

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
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES).decode("utf-8", errors="replace").removeprefix("\ufeff").lstrip()
    except OSError as error:
        raise TextError(f"{begin}: {(error.strerror or 'cannot be read').lower()}") from error
    if head[:1] == "{" and isinstance(_parsed(head.partition("\n")[0]), dict):
        return "jsonl"
    if head[:1] in ("{", "[") and (found := _whole(path)) is not None:
        if isinstance(found, list):
            return "json"
        raise TextError(f"{begin}: is one JSON object, which holds no rows; {_ROWS}")
    if named == "json":
        raise TextError(f"{begin}: is neither a list of rows nor one row a line; {_ROWS}")
    if head and (share := sum(map(len, _TAG.findall(head))) / len(head)) > _MOST_TAGS:
        raise TextError(f"{begin}: looks like markup ({share:.0%} of it are tags); take the text out of it first")
    return "text"


def rows_of_list(path: Path, where: str) -> list[tuple[str, dict[str, Any]]]:
    """Return place and content of each row of a JSON list; a text is a row with the field `text`.

    Raises:
        TextError: the file is too large to be read whole, or a member of the list is no row.
    """
    begin = f"{where}source: {path.name}"
    found = _whole(path)
    if not isinstance(found, list):
        raise TextError(f"{begin}: no JSON list of at most {LIST_BYTES >> 20} MiB; write one row a line (.jsonl)")
    rows = []
    for number, row in enumerate(found, start=1):
        if not isinstance(row, dict | str):
            raise TextError(f"{begin}: row {number}: must be an object or a text, is {type(row).__name__}")
        rows.append((f"row {number}", {"text": row} if isinstance(row, str) else row))
    return rows


def _whole(path: Path) -> Any:
    """Return the JSON that a whole file holds, or None: it is no JSON, or larger than a list may be."""
    try:
        if path.stat().st_size > LIST_BYTES:
            return None
        return _parsed(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError):
        return None


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
