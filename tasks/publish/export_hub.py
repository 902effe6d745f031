"""Exports a folder as one commit to a repository of a model hub, through the client `huggingface_hub`.

The client itself reads the hub's address from HF_ENDPOINT and the token from HF_TOKEN.
"""

from pathlib import Path

from quantmill.errors import RequestError, StoreError, VerificationError
from quantmill.files import keys
from quantmill.recipe.schemes import hub_name
from tasks import hub

_KEPT = ".gitattributes"  # the hub writes this file: it says which files are large


def repository(target: str) -> str:
    """Return the repository's name `org/name`; raise RequestError if the target is not `hf://org/name`."""
    if not (name := hub_name(target)):
        raise RequestError(f"{target}: write it as hf://org/name")
    return name


def send(folder: Path, names: list[str], target: str, private: bool, message: str) -> str:
    """Replace a repository's content with the files, in one commit, and return the commit's address.

    The digests that the hub states for the commit are checked.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    repo = repository(target)
    with hub.one_line(target, RequestError, StoreError, "write there"):
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
    if wrong := [name for name in names if not _is(folder / name, found.pop(name, None))] or sorted(found):
        raise VerificationError(
            f"{target}: {wrong[0]}: the repository does not match the files that were sent ({len(wrong)} files differ)"
        )
    return str(made.commit_url)


def _is(path: Path, digest: str | None) -> bool:
    """Return whether `digest`, which the hub states, is the digest of the file at `path`.

    The hub states the sha256 of a large file and git's digest of a small file.
    """
    return digest in (keys.file_sha256(path), hub.git_digest(path))
