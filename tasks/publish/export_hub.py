"""A folder of files -> one commit of a repository of a model hub, through the hub's own client.

Which hub: HF_ENDPOINT. Whose token: HF_TOKEN. Both are read by `huggingface_hub` itself and appear nowhere here.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quantmill.errors import RequestError, StoreError, VerificationError
from quantmill.files import keys

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_KEPT = ".gitattributes"  # the hub's own: which files are large


def repository(target: str) -> str:
    """Return the name of the repository of `hf://org/name`; RequestError where it is not one."""
    repo = target.removeprefix("hf://")
    if not _REPO.fullmatch(repo) or ".." in repo or "--" in repo:
        raise RequestError(f"{target}: write it as hf://org/name")
    return repo


def send(folder: Path, names: list[str], repo: str, private: bool, message: str) -> str:
    """Make the files the whole content of a repository, in one commit, check its digests and return the commit's address."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    target = f"hf://{repo}"
    with _one_line(target):
        api = HfApi()
        api.create_repo(repo, private=private or None, exist_ok=True)
        before = {file.rfilename for file in api.model_info(repo).siblings or []} - {_KEPT}
        if before and names[-1] not in before:
            raise RequestError(f"{target}: holds {min(before)}, and no earlier export; name an empty repository")
        added = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in names]
        dropped = [CommitOperationDelete(path_in_repo=name) for name in sorted(before - set(names))]
        made = api.create_commit(repo, [*added, *dropped], commit_message=f"Publish {message}")
        held = api.model_info(repo, revision=made.oid, files_metadata=True).siblings or []
    found = {file.rfilename: (file.lfs.sha256 if file.lfs else file.blob_id) for file in held}
    found.pop(_KEPT, None)
    if wrong := [name for name in names if found.pop(name, None) not in _digests(folder / name)] or sorted(found):
        raise VerificationError(
            f"{target}: {wrong[0]}: the hub does not hold what was sent ({len(wrong)} files in all)"
        )
    return str(made.commit_url)


def _digests(path: Path) -> tuple[str, ...]:
    """Return what the hub may state of a file: the sha256 of a large one, git's digest of a small one."""
    blob = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            blob.update(piece)
    return keys.file_sha256(path), blob.hexdigest()


@contextmanager
def _one_line(target: str) -> Iterator[None]:
    """Raise what the client raises as one line; its own words hold addresses, and are left out."""
    from httpx2 import HTTPError
    from huggingface_hub import errors

    try:
        yield
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise RequestError(
                f"{target}: the hub refuses (HTTP {status}); HF_TOKEN must be a token that may write there"
            ) from error
        raise StoreError(f"{target}: the hub answered HTTP {status}; the same command goes on") from error
    except (HTTPError, OSError, ValueError, KeyError, TypeError, RuntimeError, errors.HFValidationError) as error:
        raise StoreError(f"{target}: the hub does not answer, or broke off ({type(error).__name__})") from error
