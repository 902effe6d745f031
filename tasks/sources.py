"""What may be taken in: a source is looked at before anything is written, by an allow-list of files.

Weights come as safetensors or GGUF, everything else as JSON or text that a tokenizer reads. Pickles and code are refused,
whatever they are called: `trust_remote_code` does not exist here.
"""

import importlib.util
import json
import stat
from pathlib import Path
from typing import Any

from quantmill import keys
from quantmill.artifact import Architecture, FileEntry, Origin, safe_path
from quantmill.errors import RequestError, SourceError
from quantmill.recipe import ModelRequest

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
_JSON_BYTES = 64 << 20
_HEADER_BYTES = 100 << 20


def locate(source: str) -> Path:
    """Return where a source lies on this machine.

    Raises:
        SourceError: it does not exist, or its kind is not one that this release fetches.
    """
    scheme, mark, rest = source.partition("://")
    if not mark:
        path = Path(source).expanduser()
        if not path.exists():
            raise SourceError(f"model.source: {source}: no such file or folder")
        return path
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
        architecture = _read_architecture(path)
        files = tuple(_entry(path / name, name) for name in names)
        return _pinned(Origin(request=request, kind="folder", files=files, architecture=architecture))
    if path.suffix != ".gguf":
        raise SourceError(f"model.source: {request.source}: a single file must be a .gguf")
    architecture, license_name = _read_gguf(path)
    files = (_entry(path, safe_path(path.name)),)
    return _pinned(Origin(request=request, kind="gguf", files=files, architecture=architecture, license=license_name))


def list_files(folder: Path) -> list[str]:
    """Return the files of a model folder that are taken in, by name.

    Raises:
        SourceError: something in the folder is not allowed.
    """
    names = []
    for path in sorted(folder.iterdir()):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode) and not path.resolve().is_relative_to(folder.resolve()) and not _hub_link(path, folder):
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
            _read_json(path)
        if path.name not in _DROPPED:
            names.append(safe_path(path.name))
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
    index = folder / "model.safetensors.index.json"
    parts = {"model.safetensors"}
    if index.exists():
        parts = set(_mapping(_read_json(index).get("weight_map"), index).values())
    for part in sorted(str(part) for part in parts):
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
        with safe_open(path, "np"):
            pass
    except SafetensorError as error:
        raise SourceError(
            f"model.source: {path.name}: not a safetensors file: {' '.join(str(error).split())[:120]}"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _JSON_BYTES:
        raise SourceError(f"model.source: {path.name}: a JSON file holds at most {_JSON_BYTES} bytes")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise SourceError(f"model.source: {path.name}: not JSON: {' '.join(str(error).split())[:120]}") from error
    return _mapping(value, path)


def _mapping(value: object, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SourceError(f"model.source: {path.name}: not a JSON object where one is needed")
    return value


def _read_architecture(folder: Path) -> Architecture:
    config = _read_json(folder / "config.json")
    config = config | config["text_config"] if isinstance(config.get("text_config"), dict) else config
    if isinstance(quantized := config.get("quantization_config"), dict):
        method = quantized.get("quant_method", "some method")
        raise SourceError(f"model.source: quantized with {method} already; name the original model")
    names = config.get("architectures") or [""]
    if not str(names[0]).endswith(("ForCausalLM", "LMHeadModel")):
        raise SourceError(
            f"model.source: {names[0] or 'unknown architecture'}: a causal language model (*ForCausalLM) is needed"
        )
    return _architecture(
        name=str(names[0]),
        model_type=str(config.get("model_type", "")),
        layers=config.get("num_hidden_layers", config.get("n_layer")),
        hidden=config.get("hidden_size", config.get("n_embd")),
        inner=config.get("intermediate_size", config.get("n_inner")),
        attention=_product(config.get("num_attention_heads"), config.get("head_dim")),
        vocabulary=config.get("vocab_size"),
    )


def _product(heads: object, width: object) -> int | None:
    return heads * width if isinstance(heads, int) and isinstance(width, int) else None


def _architecture(
    name: str, model_type: str, layers: object, hidden: object, inner: object, attention: object, vocabulary: object
) -> Architecture:
    for field, value in {"layers": layers, "hidden size": hidden, "vocabulary size": vocabulary}.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise SourceError(f"model.source: the config states no {field}: {value!r}")
    assert isinstance(layers, int) and isinstance(hidden, int) and isinstance(vocabulary, int)  # for the type checker
    widths = {
        hidden,
        inner if isinstance(inner, int) else 4 * hidden,
        attention if isinstance(attention, int) else hidden,
    }
    return Architecture(
        name=name,
        model_type=model_type,
        layers=layers,
        hidden_size=hidden,
        vocabulary_size=vocabulary,
        linear_inputs=tuple(sorted(widths)),
    )


def _read_gguf(path: Path) -> tuple[Architecture, str]:
    from tasks.dequantize import read_gguf

    fields = read_gguf(path).fields

    def read(key: str) -> Any:
        return fields[key].contents() if key in fields else None

    kind = str(read("general.architecture"))
    if read(f"{kind}.attention.causal") is False or read(f"{kind}.pooling_type") is not None:
        raise SourceError(f"model.source: {path.name}: {kind} is an encoder; a causal language model is needed")
    tokens = fields.get("tokenizer.ggml.tokens")
    architecture = _architecture(
        name=kind,
        model_type=kind,
        layers=read(f"{kind}.block_count"),
        hidden=read(f"{kind}.embedding_length"),
        inner=read(f"{kind}.feed_forward_length"),
        attention=_product(read(f"{kind}.attention.head_count"), read(f"{kind}.attention.key_length")),
        vocabulary=len(tokens.data) if tokens else None,
    )
    return architecture, str(read("general.license") or "")


def _entry(path: Path, name: str) -> FileEntry:
    return FileEntry(path=name, size_bytes=path.stat().st_size, sha256=keys.file_sha256(path))


def _pinned(origin: Origin) -> Origin:
    """Return `origin` if it is the revision that was asked for."""
    if not origin.digest.startswith(origin.request.revision):
        raise RequestError(f"model.revision: {origin.request.revision}: the source's digest is {origin.digest}")
    return origin
