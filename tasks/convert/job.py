"""Inside a job: converts a snapshot to a BF16 GGUF file, or compares the two on one longer text."""

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from tasks.sandbox import JobArguments, Progress, here


class Convert(JobArguments):
    """The arguments of a job that makes a conversion."""

    kind: Literal["conversion"] = "conversion"
    source: Path
    """The snapshot's folder."""
    name: str
    """The model's name in the file's metadata."""


class Compare(JobArguments):
    """The arguments of a job that compares a conversion with its source."""

    kind: Literal["long_text"] = "long_text"
    source: Path
    """The snapshot's folder."""
    conversion: Path
    """The BF16 GGUF file."""
    tokens: int
    """Length of the text in tokens."""


Arguments = Annotated[Convert | Compare, Field(discriminator="kind")]


def run(arguments: Convert | Compare, out: Path, progress: Progress) -> dict[str, Any]:
    """Fill `out` with a checked GGUF file, or return its divergence from its source on a longer text.

    A GGUF file passes the check if it tokenizes and renders chats as its source does.
    """
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
