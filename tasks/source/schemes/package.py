"""`package://module/file`: a file in the folder of an installed Python module."""

import importlib.util
from pathlib import Path

from quantmill.errors import SourceError
from quantmill.files.paths import safe_path
from quantmill.recipe.schemes import SCHEMES

_ROW = SCHEMES["package"]


def locate(source: str) -> Path:
    """Return the file's path; SourceError if no installed package has the file."""
    parts = _ROW.parse(source.removeprefix(_ROW.prefix))
    try:
        found = importlib.util.find_spec(parts["module"])
        inside = Path(str(found.origin)).parent / safe_path(parts["file"]) if found and found.origin else None
    except (ValueError, ImportError) as error:
        raise SourceError(f"{source}: {error}") from error
    if inside is None or not inside.is_file():
        raise SourceError(f"{source}: no installed package has that file")
    return inside
