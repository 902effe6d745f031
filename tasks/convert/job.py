"""Inside a job: a snapshot becomes a BF16 GGUF file, or such a file is compared with its source on one longer text."""

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from tasks.sandbox import JobArguments, Progress, here


class Convert(JobArguments):
    """A conversion to make."""

    kind: Literal["conversion"] = "conversion"
    source: Path
    """The snapshot."""
    name: str
    """The model's name in the file's metadata."""


class Compare(JobArguments):
    """A conversion to compare with its source."""

    kind: Literal["long_text"] = "long_text"
    source: Path
    """The snapshot."""
    conversion: Path
    """The GGUF file."""
    tokens: int
    """Length of the text."""


Arguments = Annotated[Convert | Compare, Field(discriminator="kind")]


def run(arguments: Convert | Compare, out: Path, progress: Progress) -> dict[str, Any]:
    """Fill `out` with a GGUF file that tokenizes and chats as its source does, or return how far one is from its source."""
    if isinstance(arguments, Compare):
        from tasks.convert import compare_long

        source, gguf = arguments.source, arguments.conversion
        return compare_long.compare(source, gguf, arguments.tokens, Path.cwd(), here.threads(), progress)
    from tasks.convert import converter
    from tasks.tokenizer import same_text, sentencepiece_model

    source = sentencepiece_model.complete(arguments.source, Path(tempfile.mkdtemp()))
    converter.convert(source, out / "model.gguf", progress, name=arguments.name)
    recut = same_text.require(arguments.source, out / "model.gguf")
    (out / same_text.RECUT).write_text(json.dumps(recut), encoding="utf-8")
    return {}
