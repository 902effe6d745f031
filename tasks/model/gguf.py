"""Opens GGUF files for reading, here and in transformers; what reads whole tensors is imported late."""

import json
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantmill.errors import SourceError, VerificationError
from quantmill.files import gguf_header

if TYPE_CHECKING:
    from gguf import GGUFReader


def read_gguf(gguf: Path, vocabulary: bool = True) -> "GGUFReader":
    """Return a reader of a file whose header and tensor table are whole and whose tensors all lie inside it.

    Args:
        gguf: the file.
        vocabulary: whether tokens and merges are wanted one by one, which takes seconds; else they are blocks of bytes.

    Raises:
        SourceError: the file is missing, is no GGUF, is cut short, or is one part of several.
    """
    import numpy
    from gguf import GGUFReader

    from tasks.model.gguf_blocks import BlockReader

    try:
        gguf_header.read_header(gguf)
    except VerificationError as error:
        raise SourceError(f"{gguf.name}: {error}") from error
    except OSError as error:
        raise SourceError(f"{gguf.name}: cannot be read ({error.strerror})") from error
    try:
        # A broken length field makes numpy warn about an overflow before the reader fails on it.
        with numpy.errstate(over="ignore"):
            reader = GGUFReader(gguf) if vocabulary else BlockReader(gguf)
    except (ValueError, KeyError, IndexError, OverflowError, MemoryError, struct.error) as error:
        raise SourceError(f"{gguf.name}: the GGUF is cut short or broken ({one_line(error)})") from error
    if not reader.tensors or "general.architecture" not in reader.fields:
        raise SourceError(f"{gguf.name}: a model's GGUF has tensors and general.architecture, this one lacks them")
    parts = reader.get_field("split.count")
    if parts is not None and int(parts.contents()) > 1:
        raise SourceError(f"{gguf.name}: one part of {int(parts.contents())}; llama-gguf-split --merge joins them")
    return reader


def read_blocks(gguf: Path) -> "GGUFReader":
    """Return a reader of a file made here, with each long array as one block of bytes."""
    from tasks.model.gguf_blocks import BlockReader

    return BlockReader(gguf)


@contextmanager
def read_by_transformers(reader: "GGUFReader") -> Iterator[None]:
    """Have transformers read a GGUF by its architecture alone, through a reader that exists already.

    A file of the architecture `llama` whose general.name is `mistral` is of another architecture to transformers, which it
    then does not know. By itself transformers reads the file anew for config, weights and tokenizer (4.5 s each with a
    vocabulary of 49,152) and makes the table of tensor names once for every module of the model.
    """
    import gguf
    from transformers import modeling_gguf_pytorch_utils as reading

    with ExitStack() as undo:

        def replace(module: Any, name: str, value: Any) -> None:
            undo.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, value)

        of_file = reading.read_field
        replace(reading, "read_field", lambda file, name: [] if name == "general.name" else of_file(file, name))
        replace(gguf, "GGUFReader", lambda _path: reader)
        replace(gguf, "get_tensor_name_map", cache(gguf.get_tensor_name_map))
        yield


def rewrite_json(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Write a JSON object anew, changed, in the same form wherever that is done."""
    settings = change(json.loads(path.read_text(encoding="utf-8")))
    text = json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def one_line(error: BaseException) -> str:
    """Return an error's words as part of a line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
