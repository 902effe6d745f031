"""Rules that give single layers another bit width; they mean the same for all methods.

A rule is a regular expression over the checkpoint's module names and a bit width.
"""

import re
from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict, Field, field_validator

from quantmill.errors import RecipeError

_MATCH_SIGNS = 200
_REPEATS = 3
_PLAIN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?[^:=!<)]?", re.DOTALL)  # escapes, sets, openings of groups
_REPEAT = re.compile(r"(?:[*+?]|\{[\d,]+\})[?+]?")
_GROUP_REPEAT = re.compile(r"\)(?:[*+]|\{[\d,]+\})")


class LayerRule(BaseModel):
    """A rule that gives layers another bit width than the rest of the variant."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    match: str = Field(
        min_length=1,
        max_length=_MATCH_SIGNS,
        description="Regular expression that is searched in names such as model.layers.0.mlp.down_proj.",
        title="Layers",
        examples=["down_proj"],
        json_schema_extra={"position": 0},
    )
    bits: int = Field(
        description="Bit width of these layers; 16: not quantized.", examples=[8], json_schema_extra={"position": 1}
    )

    @field_validator("match")
    @classmethod
    def _compiles(cls, match: str) -> str:
        try:
            re.compile(match)
        except re.error as error:
            raise ValueError(f"not a regular expression ({error})") from error
        return match

    def require_quick(self) -> None:
        """Raise ValueError if a search with the expression could run for ever, which nothing could stop."""
        plain = _PLAIN.sub("x", self.match)
        if _GROUP_REPEAT.search(plain) or len(_REPEAT.findall(plain)) > _REPEATS:
            raise ValueError(
                f"layers: match: {self.match!r} may search for ever; at most {_REPEATS} of * + ? {{}}, none after a group"
            )

    def require_bits(self, method: str, allowed: tuple[int, ...]) -> None:
        """Raise ValueError if a method cannot give a layer this bit width."""
        if self.bits not in allowed:
            raise ValueError(f"layers: {method} supports {', '.join(map(str, allowed))} bits, got {self.bits}")


def choose_bits(rules: Sequence[LayerRule], names: Iterable[str]) -> dict[str, int]:
    """Return module name -> bits for the layers that a rule matches; the first matching rule decides.

    Raises:
        RecipeError: a rule matches no layer, or only layers that earlier rules match.
    """
    chosen: dict[str, int] = {}
    used = set()
    for name in names:
        index = next((i for i, rule in enumerate(rules) if re.search(rule.match, name)), None)
        if index is not None:
            used.add(index)
            chosen[name] = rules[index].bits
    for index, rule in enumerate(rules):
        if index not in used:
            raise RecipeError(f"layers[{index}].match: {rule.match!r} matches no layer of this model")
    return chosen
