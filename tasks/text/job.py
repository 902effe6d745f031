"""Inside a job: conversations as the model's chat template renders them."""

import json
from pathlib import Path
from typing import Any, Literal

from tasks.sandbox import JobArguments, Progress


class Arguments(JobArguments):
    """Conversations to render."""

    kind: Literal["tokens"] = "tokens"
    folder: Path
    """The snapshot."""
    conversations: Path
    """A JSON list of conversations, each a list of messages."""
    where: str
    """The recipe's field and source, for messages."""


def run(arguments: Arguments, out: Path, progress: Progress) -> dict[str, Any]:
    """Write `rendered.json` to `out`: a list of texts."""
    from tasks.tokenizer import chat

    talks = json.loads(arguments.conversations.read_bytes())
    rendered = chat.render(arguments.folder, talks, arguments.where)
    (out / "rendered.json").write_text(json.dumps(rendered), encoding="utf-8")
    progress("render", 1, 1)
    return {}
