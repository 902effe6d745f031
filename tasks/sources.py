"""What may be taken in: a source is looked at before anything is written, by an allow-list of files.

Weights come as safetensors or GGUF, everything else as JSON or text that a tokenizer reads. Pickles and code are refused,
whatever they are called: `trust_remote_code` does not exist here.
"""

import importlib.util
import stat
from pathlib import Path

from quantmill import keys
from quantmill.artifact import FileEntry, Origin, safe_path
from quantmill.errors import RequestError, SourceError
from quantmill.recipe import ModelRequest
from tasks.architecture import mapping, of_config, of_gguf, read_json

_TEXT = {
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt", "chat_template.jinja", "chat_template.json",
    "tokenizer.model", "model.safetensors.index.json", "LICENSE", "LICENSE.txt", "NOTICE", "README.md", ".gitattributes",
}  # fmt: skip
_DROPPED = {"README.md", ".gitattributes", "special_tokens_map.json"}
_REFUSED = (
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".pkl",
    ".pickle",
    ".py",
    ".pyc",
    ".so",
    ".msgpack",
    ".h5",
    ".ot",
    ".joblib",
    ".npz",
)
_KINDS = {"F64", "F32", "F16", "BF16", "I64", "I32", "BOOL"}
_HEADER_BYTES = 100 << 20


def locate(source: str) -> Path:
    """Return where a source lies on this machine.

    Raises:
        SourceError: it does not exist, or its kind is not one that this release fetches.
    """
    scheme, mark, rest = source.partition("://")
    if not mark:
        try:
            path = Path(source).expanduser()
            if path.exists():
                return path
        except (OSError, RuntimeError, ValueError) as error:
            raise SourceError(f"model.source: {source[:80]}: {' '.join(str(error).split())[:120]}") from error
        raise SourceError(f"model.source: {source}: no such file or folder")
    if scheme != "package":
        raise SourceError(f"model.source: {source}: allowed are a folder, a .gguf file and package://module/file")
    module, slash, name = rest.partition("/")
    try:
        found = importlib.util.find_spec(module) if module.isidentifier() and slash else None
        inside = Path(str(found.origin)).parent / safe_path(name) if found and found.origin else None
    except (ValueError, ImportError) as error:
        raise SourceError(f"model.source: {source}: {error}") from error
    if inside is None or not inside.is_file():
        raise SourceError(
            f"model.source: {source}: write it as package://module/file; no installed package has that file"
        )
    return inside


def inspect(request: ModelRequest) -> Origin:
    """Return what lies at the source, checked and with the sha256 of every file; writes nothing.

    Raises:
        SourceError: a file is not allowed, or it is no causal language model that can be quantized.
    """
    path = locate(request.source)
    if path.is_dir():
        names = list_files(path)
        architecture = of_config(path)
        files = tuple(_entry(path / name, name) for name in names)
        return _pinned(Origin(request=request, kind="folder", files=files, architecture=architecture))
    if path.suffix != ".gguf":
        raise SourceError(f"model.source: {request.source}: a single file must be a .gguf")
    architecture, license_name = of_gguf(path)
    files = (_entry(path, safe_path(path.name)),)
    return _pinned(Origin(request=request, kind="gguf", files=files, architecture=architecture, license=license_name))


def list_files(folder: Path) -> list[str]:
    """Return the files of a model folder that are taken in, by name.

    Raises:
        SourceError: something in the folder is not allowed.
    """
    names: list[str] = []
    for path in sorted(folder.iterdir()):
        try:
            name, mode, end = safe_path(path.name), path.lstat().st_mode, path.resolve(strict=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise SourceError(f"model.source: {path.name!r}: {' '.join(str(error).split())[:120]}") from error
        if name.lower() in {known.lower() for known in names}:
            raise SourceError(f"model.source: {name}: another file's name differs in case only")
        if stat.S_ISLNK(mode) and not end.is_relative_to(folder.resolve()) and not _hub_link(path, folder):
            raise SourceError(f"model.source: {path.name}: a link that leaves the folder")
        if path.is_dir():
            continue  # subfolders hold other formats of the same model; nothing of them is read
        if not path.is_file():
            raise SourceError(f"model.source: {path.name}: not a plain file")
        if path.suffix in _REFUSED:
            raise SourceError(
                f"model.source: {path.name}: pickles and code are refused; allowed are safetensors, GGUF and JSON"
            )
        if path.suffix == ".safetensors":
            _check_safetensors(path)
        elif path.name not in _TEXT:
            raise SourceError(
                f"model.source: {path.name}: not an allowed file; allowed are *.safetensors, {', '.join(sorted(_TEXT))}"
            )
        elif path.suffix == ".json":
            read_json(path)
        if path.name not in _DROPPED:
            names.append(name)
    _check_complete(folder, names)
    return names


def _hub_link(path: Path, folder: Path) -> bool:
    """Return whether a link is the hub cache's own: `snapshots/<revision>/file` -> `../../blobs/<digest>`."""
    blobs = folder.resolve().parent.parent / "blobs"
    return folder.resolve().parent.name == "snapshots" and path.resolve().parent == blobs


def _check_complete(folder: Path, names: list[str]) -> None:
    for needed in ("config.json", "tokenizer.json"):
        if needed not in names:
            raise SourceError(f"model.source: {needed} is missing from {folder}")
    _check_tokenizer(folder / "tokenizer.json")
    index = folder / "model.safetensors.index.json"
    parts = {"model.safetensors"}
    if index.exists():
        parts = {str(part) for part in mapping(read_json(index).get("weight_map"), index).values()}
    for part in sorted(parts):
        if "/" in part or "\\" in part or part not in names:
            raise SourceError(
                f"model.source: {index.name if index.exists() else folder}: weights file {part!r} is not in the folder"
            )


def _check_safetensors(path: Path) -> None:
    """Refuse a file whose header does not describe exactly its bytes (or is no safetensors at all)."""
    from safetensors import SafetensorError, safe_open

    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= _HEADER_BYTES:
        raise SourceError(f"model.source: {path.name}: not a safetensors file (a header of {length} bytes)")
    try:
        with safe_open(path, "np") as file:
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 (no mapping)
        if not kinds:
            raise SourceError(f"model.source: {path.name}: holds no tensor")
        if odd := sorted(set(kinds.values()) - _KINDS):
            raise SourceError(
                f"model.source: {path.name}: weights of type {odd[0]}; allowed are {', '.join(sorted(_KINDS))}"
            )
    except SafetensorError as error:
        raise SourceError(
            f"model.source: {path.name}: not a safetensors file: {' '.join(str(error).split())[:120]}"
        ) from error


def _check_tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer

    try:
        Tokenizer.from_file(str(path))
    except Exception as error:
        raise SourceError(
            f"model.source: {path.name}: not a tokenizer: {' '.join(str(error).split())[:120]}"
        ) from error


def _entry(path: Path, name: str) -> FileEntry:
    return FileEntry(path=name, size_bytes=path.stat().st_size, sha256=keys.file_sha256(path))


def _pinned(origin: Origin) -> Origin:
    """Return `origin` if it is the revision that was asked for."""
    if not origin.digest.startswith(origin.request.revision):
        raise RequestError(f"model.revision: {origin.request.revision}: the source's digest is {origin.digest}")
    return origin
