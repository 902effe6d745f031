"""The code of installed engines as text: their lists are read, not imported, which takes up to 15 seconds and patches others."""

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path


def read(package: str, path: str) -> str:
    """Return the text of a package's file, nothing where the package is not installed."""
    found = importlib.util.find_spec(package)
    places = found.submodule_search_locations if found else None
    file = Path(places[0], path) if places else None
    return file.read_text(encoding="utf-8") if file and file.is_file() else ""


def assigned(text: str) -> Iterator[tuple[str, ast.expr]]:
    """Yield name and value of each assignment at the top of a module."""
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            yield statement.targets[0].id, statement.value
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
            yield statement.target.id, statement.value
