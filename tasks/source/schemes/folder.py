"""A plain path: a model folder or a GGUF file. A watched folder holds one model in each subfolder."""

from collections.abc import Callable, Iterator
from pathlib import Path

from quantmill.errors import SourceError
from quantmill.recipe.recipe import ModelRequest
from quantmill.recipe.schemes import SCHEMES
from tasks.source import origins
from tasks.source.sights import Found, NotYet, Sight


def locate(source: str) -> Path:
    """Return the absolute path; SourceError if the path does not exist."""
    try:
        path = Path(source).expanduser().absolute()  # a job has another working directory
        if path.exists():
            return path
    except (OSError, RuntimeError, ValueError) as error:
        raise SourceError(f"{source[:80]}: {' '.join(str(error).split())[:120]}") from error
    plain = source[0] in "./~"
    meant = [row.prefix + source for row in SCHEMES.values() if row.on_hub and not plain and row.parse(source)]
    hint = f"; a model of the hub is written {meant[0]}" if meant else ""
    raise SourceError(f"{source}: no such file or folder{hint}")


def find_models(place: str, wanted: Callable[[str], bool], home: Path) -> Iterator[Found | NotYet]:
    """Yield the direct subfolders of a folder.

    `look` hashes a subfolder's files, so that copying the same model again yields the same revision.
    """

    def closer(model: str) -> Callable[[], Sight]:
        def look() -> Sight:
            origin = origins.inspect(ModelRequest(source=model), home)
            request = ModelRequest(source=model, revision=origin.digest)
            return Sight(model, request, origin.digest, {file.path: file.sha256 for file in origin.files})

        return look

    folders = Path(place)
    for folder in sorted(folders.iterdir()) if folders.is_dir() else []:
        if not wanted(folder.name):
            continue
        try:
            if not folder.is_dir():
                continue
            # ctime, when the entry changed on this disk: a copy may keep the mtime of the original.
            changed_at = max(path.lstat().st_ctime for path in (folder, *folder.iterdir()))
        except FileNotFoundError:  # somebody is moving it
            continue
        except OSError as error:  # no permission, or an absent disk: go on with the other folders
            yield NotYet(str(folder), f"cannot be read ({error.strerror})")
            continue
        yield Found(str(folder), "", changed_at, closer(str(folder)))
