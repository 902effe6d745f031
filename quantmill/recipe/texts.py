"""The texts of a recipe that are cut into token windows: one source, or several with weights."""

import re
from fractions import Fraction
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

TextKind = Literal["builtin", "text", "json", "jsonl", "jsonl.gz", "parquet", "dataset"]
DATASET = "dataset://"
_NUMBERS = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)  # no `true` for 1, no `.inf`
_PLACE = r"^[^\x00-\x1f]+$"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LATER = ("field", "chat_template", "subset", "split", "revision", "mix")
"""Fields newer than the first keys: a field at its default is left out, so that old digests stay valid."""


class TextSource(BaseModel):
    """A source of text, and which part of it is read."""

    model_config = _NUMBERS

    source: str = Field(
        default="builtin",
        pattern=_PLACE,
        max_length=4096,
        description="builtin: text that comes with Python; a .jsonl, .json, .jsonl.gz or .parquet file of rows;"
        " any other path: a UTF-8 text file; dataset://org/name: a data set on the Hugging Face hub.",
        json_schema_extra={"position": 0},
    )
    field: str = Field(
        default="",
        max_length=200,
        pattern=r"^[^\x00-\x1f]*$",
        description="For rows: the field with the text or the messages; empty: text, else messages.",
        examples=["text"],
        json_schema_extra={"position": 4},
    )
    chat_template: bool = Field(
        default=False,
        description="Wrap plain documents as user messages in the model's chat template; messages are always wrapped.",
        json_schema_extra={"position": 5},
    )
    subset: str = Field(
        default="",
        max_length=200,
        pattern=r"^[^\x00-\x1f]*$",
        description="For data sets: the configuration; empty: the only configuration.",
        examples=["wikitext-2-raw-v1"],
        json_schema_extra={"position": 6},
    )
    split: str = Field(
        default="train",
        max_length=200,
        pattern=r"^\w+(\.\w+)*$",
        description="For data sets: the split to read.",
        json_schema_extra={"position": 7},
    )
    revision: str = Field(
        default="",
        max_length=200,
        description="For data sets: the commit, 40 hex digits.",
        examples=["b08601e04326c79dfdd32d625aee71d232d685c3"],
        json_schema_extra={"position": 8},
    )

    @property
    def kind(self) -> TextKind:
        """The format of the source, from its name."""
        if self.source == "builtin" or self.source.startswith(DATASET):
            return "builtin" if self.source == "builtin" else "dataset"
        name = self.source.lower()
        kinds: tuple[TextKind, ...] = ("json", "jsonl", "jsonl.gz", "parquet")
        return next((kind for kind in kinds if name.endswith(f".{kind}")), "text")

    @property
    def in_rows(self) -> bool:
        """Whether the source consists of rows with fields."""
        return self.kind not in ("builtin", "text")

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "TextSource":
        if self.field and not self.in_rows:
            raise ValueError(
                f"field: {self.source} has no fields; .json, .jsonl, .jsonl.gz, .parquet and {DATASET} have fields"
            )
        if self.kind != "dataset":
            for name in ("subset", "split", "revision"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name}: allowed only for a source {DATASET}org/name")
        elif not _NAME.fullmatch(self.source.removeprefix(DATASET)):
            raise ValueError(f"source: {self.source}: write it as {DATASET}org/name")
        elif not _COMMIT.fullmatch(self.revision):
            got = self.revision or "none"
            raise ValueError(f"revision: {self.source} needs a commit, 40 hex digits (branches move); got {got}")
        return self

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        return {name: value for name, value in values.items() if name not in _LATER or value != fields[name].default}


class MixedText(TextSource):
    """One source of a mixture."""

    source: str = Field(
        pattern=_PLACE,
        max_length=4096,
        description="The source, in the same forms as a single source.",
        examples=["./text.txt"],
        json_schema_extra={"position": 0},
    )
    weight: float = Field(
        default=1.0,
        gt=0,
        le=1e6,
        description="The share of windows of this source is its weight over the sum of all weights.",
        json_schema_extra={"position": 1},
    )


class Share(NamedTuple):
    """One source's share of a token set."""

    field: str
    """The path of the source's fields in the request, for messages: empty, or `mix[1].`."""
    text: TextSource
    windows: int


class TokenRequest(TextSource):
    """The text to cut into token windows, and the number and length of the windows."""

    samples: int = Field(
        default=16, ge=1, le=65536, description="Number of token windows.", json_schema_extra={"position": 1}
    )
    sequence_length: int = Field(
        default=512, ge=8, le=131072, description="Tokens in a window.", json_schema_extra={"position": 2}
    )
    seed: int = Field(
        default=0, ge=0, lt=2**63, description="Seed that draws the windows.", json_schema_extra={"position": 3}
    )
    mix: list[MixedText] = Field(
        default=[],
        max_length=64,
        description="Several sources with weights, in place of `source`.",
        json_schema_extra={"position": 9},
    )

    @model_validator(mode="after")
    def _one_or_several(self) -> "TokenRequest":
        if self.mix and self.source != "builtin":
            raise ValueError(f"mix: give source or mix, not both; source is {self.source}")
        if self.mix and self.chat_template:
            raise ValueError("chat_template: in a mix, set it for each source")
        for share in self.shares if self.mix else ():
            if not share.windows and isinstance(share.text, MixedText):
                total = sum(entry.weight for entry in self.mix)
                raise ValueError(
                    f"{share.field}weight: {share.text.weight:g} of {total:g} gives 0 of {self.samples} samples;"
                    " raise the weight, take more samples or leave the source out"
                )
        return self

    @property
    def shares(self) -> list[Share]:
        """The sources in the request's order, each with its number of windows."""
        if not self.mix:
            return [Share("", self, self.samples)]
        windows = apportion([entry.weight for entry in self.mix], self.samples)
        return [Share(f"mix[{at}].", entry, windows[at]) for at, entry in enumerate(self.mix)]


def apportion(weights: list[float], total: int) -> list[int]:
    """Return whole numbers with the sum `total`, in proportion to the weights, by largest remainders.

    Of equal remainders the first wins.
    """
    whole = sum(map(Fraction, weights))
    exact = [total * Fraction(weight) / whole for weight in weights]
    counts = [int(quota) for quota in exact]
    left = sorted(range(len(weights)), key=lambda at: (counts[at] - exact[at], at))[: total - sum(counts)]
    return [count + (at in left) for at, count in enumerate(counts)]
