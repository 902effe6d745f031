"""File entries: path, size and digest, as listed in snapshots, artifacts and manifests."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field, field_validator

from quantmill.files import keys
from quantmill.files.paths import safe_path


class FileEntry(BaseModel):
    """One file of a snapshot or an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(description="Relative path, `/` between folders.")
    size_bytes: int = Field(ge=0, description="The file's length.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="The digest of the file's bytes.")

    @field_validator("path")
    @classmethod
    def _plain(cls, path: str) -> str:
        return safe_path(path)


def require_distinct(files: Sequence[FileEntry]) -> None:
    """Raise ValueError if two paths collide in a folder on some system, for example by case."""
    if len({file.path for file in files}) < len(files):
        raise ValueError("a path is listed twice")
    held: dict[str, tuple[str, bool]] = {}  # casefolded path -> the path as written, and whether it is a file
    for file in files:
        parts = file.path.split("/")
        for depth in range(1, len(parts) + 1):
            place = ("/".join(parts[:depth]), depth == len(parts))
            if (known := held.setdefault(place[0].casefold(), place)) != place:
                raise ValueError(f"{file.path!r} collides with {known[0]!r} in a folder")


def files_digest(files: tuple[FileEntry, ...]) -> str:
    """Return the digest of the names and contents of a set of files, independent of their order."""
    return keys.digest(sorted([file.path, file.sha256] for file in files))
