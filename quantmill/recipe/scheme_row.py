"""What a row is made of: the facts of one scheme of model sources. No fact has a default, so a row that lacks one fails."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Watch:
    """How a watch list names the models of a scheme."""

    form: str
    """How an entry is written; the last part is a pattern."""
    place: Callable[[str], Any]
    """Takes what stands between the prefix and the pattern; returns something false where that is no place."""
    settles: bool
    """Whether a model there may be half copied: then it counts once nothing changed for an entry's `quiet_s`."""


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """The facts of a scheme. Its work is the module of the same name in `tasks/source/schemes`."""

    name: str
    """The name of both modules."""
    prefix: str
    """What every source of the scheme begins with: `NAME://`; empty for plain paths."""
    title: str
    """What a source of the scheme is, in a few words."""
    form: str
    """How a source is written, for lists of what is allowed."""
    rule: str
    """How a source is written, for an error about one that is not."""
    example: str
    """A source, for the recipe's form and schema."""
    parse: Callable[[str], Any]
    """Takes what follows the prefix and returns its parts; something false where it is not written by the rule."""
    model_name: Callable[[str], str]
    """Takes the source and returns the part that the published name is made of, where the recipe gives none."""
    revision: str
    """What a request's revision names; empty: the first digits of the sha256 over all files."""
    remote: bool
    """Whether the bytes must be fetched to this machine before work."""
    third_party: bool
    """Whether models there are made by others: without a stated licence they are not published."""
    on_hub: bool
    """Whether what follows the prefix is the name of a repository of the Hugging Face hub."""
    watch: Watch | None
    """How watch lists name models of the scheme; None: the scheme cannot be watched."""


def last_part(source: str) -> str:
    """Return what follows the last slash or backslash of a source."""
    return re.split(r"[/\\]", source.rstrip("/\\"))[-1]
