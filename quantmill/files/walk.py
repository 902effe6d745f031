"""Lists everything below a folder: an unreadable folder is an error, and links are listed as links."""

import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path


def below(folder: Path, passing: re.Pattern[str] | None = None) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield every path below a folder with its `lstat`, in order, folders before their contents.

    Links are not followed. Paths that were removed since the listing, and folders whose names match `passing`, are skipped.
    (`Path.rglob` and `Path.glob` silently skip folders that cannot be read.)

    Raises:
        OSError: a folder cannot be read, or was removed before its content was listed; `filename` names the folder.
    """
    for path in sorted(folder.iterdir()):
        try:
            state = os.lstat(path)
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(state.st_mode):
            yield path, state
        elif not (passing and passing.fullmatch(path.name)):
            yield path, state
            yield from below(path, passing)


def plain_files(folder: Path, refusal: Callable[[Path], Exception]) -> list[Path]:
    """Return the files below a folder, by path.

    `refusal` makes the error to raise for a path that is neither a file nor a folder.

    Raises:
        OSError: see `below`.
    """
    files = []
    for path, state in below(folder):
        if stat.S_ISREG(state.st_mode):
            files.append(path)
        elif not stat.S_ISDIR(state.st_mode):
            raise refusal(path)
    return files
