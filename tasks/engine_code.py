"""Reads the source code of installed engines as text.

Importing an engine to read one of its lists would take up to 15 seconds and patch other libraries.
"""

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path


def read(package: str, path: str) -> str:
    """Return the text of a package's file, or an empty text if the package or the file is missing."""
    found = importlib.util.find_spec(package)
    places = found.submodule_search_locations if found else None
    file = Path(places[0], path) if places else None
    return file.read_text(encoding="utf-8") if file and file.is_file() else ""


def assigned(text: str) -> Iterator[tuple[str, ast.expr]]:
    """Yield the name and the value of each top-level assignment of a module."""
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            yield statement.targets[0].id, statement.value
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
            yield statement.target.id, statement.value
