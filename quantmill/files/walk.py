"""Lists what is below a folder and hides nothing: what cannot be read is an error, and links are shown as links."""

import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path


def below(folder: Path, passing: re.Pattern[str] | None = None) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield everything below a folder, folders before their contents, by path, each with its `lstat`.

    No link is followed. A file that is removed meanwhile is passed over, and so are folders whose names match `passing`.
    (`Path.rglob` and `Path.glob` pass over folders that cannot be read, without a word.)

    Raises:
        OSError: a folder cannot be read, or is gone since its name was read; `filename` names it.
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
    """Return the files below a folder, by path; what is neither a file nor a folder raises what `refusal` returns.

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
