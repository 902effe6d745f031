"""The facts of one scheme of model sources; no fact has a default, so a missing fact fails the import."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Watch:
    """How a watch list names the models of a scheme."""

    form: str
    """The form of an entry; its last part is a pattern."""
    place: Callable[[str], Any]
    """Takes the text between the prefix and the pattern; returns a false value if the text is not allowed."""
    settles: bool
    """Whether a model may be half copied: then it is taken only after no change for the entry's `quiet_s` seconds."""


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """The facts of a scheme; the module of the same name in `tasks/source/schemes` does the work."""

    name: str
    """The name of both modules."""
    prefix: str
    """The prefix of every source of the scheme: `NAME://`; empty for plain paths."""
    title: str
    """A source of the scheme in a few words."""
    form: str
    """The form of a source, for lists of allowed sources."""
    rule: str
    """The form of a source in full, for the error about a malformed source."""
    example: str
    """An example source, for the recipe's form and schema."""
    parse: Callable[[str], Any]
    """Takes the text after the prefix and returns its parts; a false value if the text breaks the rule."""
    model_name: Callable[[str], str]
    """Takes the source and returns the part from which the default published name is made."""
    revision: str
    """What a request's revision names; empty: the first digits of the sha256 over all files."""
    remote: bool
    """Whether the bytes must be downloaded to this machine before work."""
    third_party: bool
    """Whether others make these models: without a stated licence they are not published."""
    on_hub: bool
    """Whether the text after the prefix is the name of a repository on the Hugging Face hub."""
    watch: Watch | None
    """How watch lists name models of the scheme; None: the scheme cannot be watched."""


def last_part(source: str) -> str:
    """Return the part of a source after its last slash or backslash."""
    return re.split(r"[/\\]", source.rstrip("/\\"))[-1]
