"""Reads and checks a YAML file of the installation; a mistake becomes a one-line error.

Such files are the pools, the deployments and the watch list.
"""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from quantmill.errors import RequestError

_Content = TypeVar("_Content", bound=BaseModel)


def read_yaml(path: Path, kind: type[_Content]) -> _Content:
    """Return the checked content of a YAML file; see `checked`.

    Raises:
        RequestError: the file cannot be read, or a field holds a value that is not allowed.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RequestError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())[:200]}") from error
    return checked(path, content, kind)


def checked(path: Path, content: Any, kind: type[_Content]) -> _Content:
    """Return the content of a file as a `kind`.

    Validators find the file's folder as `folder` in their context.

    Raises:
        RequestError: a field holds a value that is not allowed.
    """
    try:
        return kind.model_validate(content, context={"folder": path.absolute().parent})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        words = first["msg"].removeprefix("Value error, ")
        got = str(first.get("input"))[:80]
        raise RequestError(f"{path}: {field_path(first['loc']) or 'content'}: {words}, got {got!r}") from error


def field_path(location: tuple[int | str, ...]) -> str:
    """Return the path of a field as users write it: `variants[0].bits`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
