"""Opens GGUF files for reading, here and in transformers; imports the readers of tensors late."""

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
    """Return a reader of a complete GGUF file: header, tensor table and all tensors are inside the file.

    Args:
        gguf: the file.
        vocabulary: read tokens and merges one by one, which takes seconds; if false, as blocks of bytes.

    Raises:
        SourceError: the file is missing, is no GGUF, is cut short, or is one of several parts.
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
        # On a broken length field numpy warns of an overflow before the reader fails.
        with numpy.errstate(over="ignore"):
            reader = GGUFReader(gguf) if vocabulary else BlockReader(gguf)
    except (ValueError, KeyError, IndexError, OverflowError, MemoryError, struct.error) as error:
        raise SourceError(f"{gguf.name}: the GGUF is cut short or broken ({one_line(error)})") from error
    if not reader.tensors or "general.architecture" not in reader.fields:
        raise SourceError(f"{gguf.name}: a model's GGUF needs tensors and general.architecture; this file lacks them")
    parts = reader.get_field("split.count")
    if parts is not None and int(parts.contents()) > 1:
        raise SourceError(f"{gguf.name}: one part of {int(parts.contents())}; llama-gguf-split --merge joins them")
    return reader


def read_blocks(gguf: Path) -> "GGUFReader":
    """Return a reader of a GGUF file that was checked before, with each long array as one block of bytes."""
    from tasks.model.gguf_blocks import BlockReader

    return BlockReader(gguf)


@contextmanager
def read_by_transformers(reader: "GGUFReader") -> Iterator[None]:
    """Make transformers read a GGUF through `reader`, and ignore the file's general.name.

    transformers takes a file of architecture `llama` with the general.name `mistral` for another architecture, which it
    then does not know. Without `reader`, transformers would read the file three times, for config, weights and tokenizer
    (4.5 s each for a vocabulary of 49,152), and would make the table of tensor names again for every module.
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
    """Replace the JSON object in a file by `change(object)`, written with sorted keys and an indent of 2."""
    settings = change(json.loads(path.read_text(encoding="utf-8")))
    text = json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def one_line(error: BaseException) -> str:
    """Return an error's message in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__
