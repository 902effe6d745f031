"""The allow-list of model files, for a folder on a disk and for the listing of a remote source.

Weights must be safetensors or GGUF; all other files are JSON or text. Files that are no part of the model are left out and never
opened: code, pickles, pictures, other formats of the same weights; `trust_remote_code` does not exist here. Safetensors win over
pickles, and `model.safetensors` wins over an index.
"""

import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from quantmill.errors import SourceError, VerificationError
from quantmill.files import contents, safetensors_header
from quantmill.files.contents import is_licence
from quantmill.files.paths import safe_path
from tasks.model.architecture import mapping, read_config, read_json

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_TEXT = {
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt", "chat_template.jinja", "chat_template.json",
    "tokenizer.model", "model.safetensors.index.json", "quantize_config.json",
    "quantization_config.json", "LICENSE", "LICENSE.txt", "NOTICE", "README.md", ".gitattributes",
}  # fmt: skip
_CONFIG, _TOKENIZER, _SENTENCEPIECE = "config.json", "tokenizer.json", "tokenizer.model"
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
_SHOWN, _SIGNS = 6, 80
_KINDS = {"F64", "F32", "F16", "BF16", "I64", "I32", "BOOL"}
_PACKED_KINDS = {"I16", "I8", "U8"}  # only in quantized checkpoints


def list_files(folder: Path) -> list[str]:
    """Return the names of the files of a model folder that become part of the snapshot, checked.

    Raises:
        SourceError: the folder holds no model, or a file of the model is not what its name says.
    """
    inside = {path.name: path for path in sorted(folder.iterdir()) if not path.is_dir()}
    if _CONFIG in inside:
        _require_own(inside[_CONFIG], folder)
    packed = _CONFIG in inside and _is_packed(folder)
    texts = texts_in(str(folder), inside, packed)
    for name in texts:
        _require_own(inside[name], folder)
    names = sorted({*texts, *weights_in(str(folder), inside, folder)})
    for name in names:
        _require_own(inside[name], folder)
    check_files(folder, names)
    return names


def _require_own(path: Path, folder: Path) -> None:
    """Raise SourceError unless a file of the model is a plain file whose bytes are in the folder."""
    try:
        mode, end = path.lstat().st_mode, path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise SourceError(f"{path.name!r}: {' '.join(str(error).split())[:120]}") from error
    if stat.S_ISLNK(mode) and not end.is_relative_to(folder.resolve()) and not _hub_link(path, folder):
        raise SourceError(f"{path.name}: a link that leaves the folder")
    if not path.is_file():
        raise SourceError(f"{path.name}: not a plain file")


def left_out(listed: Iterable[str], used: Iterable[str]) -> str:
    """Return in words which files of a listing are not part of the model; empty: all are."""
    others = sorted({name.partition("/")[0] + "/" * ("/" in name) for name in listed} - set(used) - _DROPPED)
    others = [(name if name.isprintable() else ascii(name))[:_SIGNS] for name in others]
    more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
    return ", ".join(others[:_SHOWN]) + more


def is_part(name: str) -> bool:
    """Return whether a file of this name can belong to a model; card and licence count as parts."""
    return name in _TEXT - {".gitattributes"} or ("/" not in name and name.endswith(".safetensors"))


def texts_in(source: str, listed: Iterable[str], packed: bool = False) -> list[str]:
    """Return the names in a listing that are a model's text files; `weights_in` returns the weight files.

    `packed`: the weights are quantized already, and the files are taken as they are.

    Raises:
        SourceError: the listing is no model in safetensors; the message names the weight files that were found.
    """
    names = {name for name in listed if "/" not in name}  # subfolders hold other formats of the same model
    if not names & {SINGLE, INDEX}:
        weights = sorted(name for name in names if PurePosixPath(name).suffix in (*_REFUSED, ".gguf", ".safetensors"))
        found = ", ".join([name for name in weights if not name.endswith((".py", ".pyc", ".so"))][:4]) or "no weights"
        raise SourceError(f"{source}: found {found}; weights are taken as {SINGLE}, or as parts that {INDEX} names")
    if _CONFIG not in names:
        raise SourceError(f"{source}: {_CONFIG} is missing")
    if _TOKENIZER not in names and (packed or _SENTENCEPIECE not in names):
        raise SourceError(f"{source}: {_TOKENIZER} is missing" + ("" if packed else f", and so is {_SENTENCEPIECE}"))
    left = {".gitattributes"} if packed else _DROPPED
    left = left | ({INDEX} if SINGLE in names else set())  # where both are there, transformers reads the one file
    terms = {name for name in names - left if is_licence(name) and (not packed or contents.licence_name(name) == name)}
    published: dict[str, str] = {}
    for name in sorted(terms):
        if (other := published.setdefault(contents.licence_name(name).lower(), name)) != name:
            raise SourceError(f"{source}: {other} and {name} would be published under one name; remove or rename one")
    return sorted((names - left) & _TEXT | terms)


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a folder that was checked: other files may have the same ending."""
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if (folder / INDEX).is_file():
        return sorted({folder / part for part in _weight_map(folder).values()})
    return sorted(folder.glob("*.safetensors"))


def weights_in(source: str, listed: Iterable[str], folder: Path) -> list[str]:
    """Return the names in a listing that are the model's weight files.

    Args:
        source: the source, for error messages.
        listed: the names in the listing.
        folder: holds the index, if the listing has one.

    Raises:
        SourceError: the index names a part that is not in the listing, or a path outside the folder.
    """
    names = set(listed)
    if SINGLE in names:
        return [SINGLE]
    parts = sorted(set(_weight_map(folder).values()))
    if not parts:
        raise SourceError(f"{source}: {INDEX} names no weights")
    for part in parts:
        _plain(source, part)
        if "/" in part or part not in names or not part.endswith(".safetensors"):
            raise SourceError(f"{source}: {INDEX}: weights file {part!r} is not there")
    if len({part.lower() for part in parts}) < len(parts):
        raise SourceError(f"{source}: {INDEX}: names of parts differ in case only")
    return parts


def _plain(source: str, name: str) -> None:
    try:
        safe_path(name)
    except ValueError as error:
        raise SourceError(f"{source}: {error}") from error


def check_texts(folder: Path, names: Iterable[str]) -> None:
    """Check that each text file is what its name says and that the tokenizer can be read.

    Raises:
        SourceError: a file fails; or a quantized checkpoint, which would be published unchanged, names code to run.
    """
    packed, names = _is_packed(folder), set(names)
    for name in sorted(names):
        try:
            contents.check_file(folder / name, name, incoming=not packed)  # from plain models auto_map is removed later
        except VerificationError as error:
            raise SourceError(str(error)) from error
    if _TOKENIZER in names:
        _check_tokenizer(folder / _TOKENIZER)


def check_files(folder: Path, names: list[str]) -> None:
    """Raise SourceError if a file is not what its name says, or the weights are no complete model."""
    check_texts(folder, [name for name in names if not name.endswith(".safetensors")])
    weights = [name for name in names if name.endswith(".safetensors")]
    kinds = _KINDS | _PACKED_KINDS if _is_packed(folder) else _KINDS
    held = {name: _tensors(folder / name, kinds) for name in weights}
    if INDEX in names:
        return _check_parts(held, _weight_map(folder))
    return None


def _weight_map(folder: Path) -> dict[str, str]:
    index = folder / INDEX
    return {tensor: str(part) for tensor, part in mapping(read_json(index).get("weight_map"), index).items()}


def _check_parts(held: dict[str, set[str]], named: dict[str, str]) -> None:
    """Raise SourceError if a part is missing or unnamed, or holds other tensors than the index says."""
    for part in sorted(set(named.values())):
        if part not in held:
            raise SourceError(f"{INDEX}: weights file {part!r} is not in the folder")
    seen: dict[str, str] = {}
    for part, tensors in sorted(held.items()):
        for tensor in sorted(tensors):
            if tensor in seen:
                raise SourceError(f"{part}: holds {tensor}, which {seen[tensor]} holds too")
            if named.get(tensor) != part:
                raise SourceError(f"{part}: holds {tensor}, which {INDEX} does not place there")
            seen[tensor] = part
    if missing := sorted(set(named) - set(seen)):
        raise SourceError(f"{INDEX}: {named[missing[0]]} does not hold {missing[0]}")


def _hub_link(path: Path, folder: Path) -> bool:
    """Return whether a link is the hub cache's: `snapshots/<revision>/file` -> `../../blobs/<digest>`."""
    blobs = folder.resolve().parent.parent / "blobs"
    return folder.resolve().parent.name == "snapshots" and path.resolve().parent == blobs


def _is_packed(folder: Path) -> bool:
    return isinstance(read_config(folder).get("quantization_config"), dict)


def _tensors(path: Path, allowed: set[str]) -> set[str]:
    """Return the names of a safetensors file's tensors.

    Raises:
        SourceError: the header does not describe exactly the file's bytes, or a tensor's type is not allowed.
    """
    try:
        tensors = safetensors_header.read_header(path)
    except VerificationError as error:
        raise SourceError(f"{path.name}: {error}") from error
    if not tensors:
        raise SourceError(f"{path.name}: holds no tensor")
    if odd := sorted({tensor.dtype for tensor in tensors.values()} - allowed):
        raise SourceError(f"{path.name}: weights of type {odd[0]}; allowed are {', '.join(sorted(allowed))}")
    return set(tensors)


def _check_tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer

    try:
        Tokenizer.from_file(str(path))
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # Rust's is no Exception
            raise
        raise SourceError(f"{path.name}: not a tokenizer: {' '.join(str(error).split())[:120]}") from error
