"""A plain path: a model folder or a GGUF file; folders that land beside each other in a watched one."""

from collections.abc import Callable, Iterator
from pathlib import Path

from quantmill.errors import SourceError
from quantmill.recipe.recipe import ModelRequest
from quantmill.recipe.schemes import SCHEMES
from tasks.source import origins
from tasks.source.sights import Found, NotYet, Sight


def locate(source: str) -> Path:
    """Return the absolute path; SourceError where there is nothing."""
    try:
        path = Path(source).expanduser().absolute()  # a job works in another folder
        if path.exists():
            return path
    except (OSError, RuntimeError, ValueError) as error:
        raise SourceError(f"{source[:80]}: {' '.join(str(error).split())[:120]}") from error
    plain = source[0] in "./~"
    meant = [row.prefix + source for row in SCHEMES.values() if row.on_hub and not plain and row.parse(source)]
    hint = f"; a model of the hub is written {meant[0]}" if meant else ""
    raise SourceError(f"{source}: no such file or folder{hint}")


def find_models(place: str, wanted: Callable[[str], bool], home: Path) -> Iterator[Found | NotYet]:
    """Yield the folders right below a folder. Each is hashed at the closer look: one that was copied again is the same."""

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
            # Not when a file was written, which a copy may keep, but when its entry changed on this disk.
            changed_at = max(path.lstat().st_ctime for path in (folder, *folder.iterdir()))
        except FileNotFoundError:  # being moved about
            continue
        except OSError as error:  # another user's, or on a disk that is away: the other folders are looked at
            yield NotYet(str(folder), f"cannot be read ({error.strerror})")
            continue
        yield Found(str(folder), "", changed_at, closer(str(folder)))
