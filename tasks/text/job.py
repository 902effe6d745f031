"""Inside a job: renders conversations with the model's chat template."""

import json
from pathlib import Path
from typing import Any, Literal

from tasks.sandbox import JobArguments, Progress


class Arguments(JobArguments):
    """The arguments of a job that renders conversations."""

    kind: Literal["tokens"] = "tokens"
    folder: Path
    """The snapshot's folder."""
    conversations: Path
    """A JSON file: a list of conversations, each a list of messages."""
    where: str
    """The recipe's field and source, for error messages."""


def run(arguments: Arguments, out: Path, progress: Progress) -> dict[str, Any]:
    """Write the rendered texts, in order, to `out/rendered.json` as a JSON list."""
    from tasks.tokenizer import chat

    talks = json.loads(arguments.conversations.read_bytes())
    rendered = chat.render(arguments.folder, talks, arguments.where)
    (out / "rendered.json").write_text(json.dumps(rendered), encoding="utf-8")
    progress("render", 1, 1)
    return {}
