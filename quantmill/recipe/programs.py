"""Rules that say which programs load which variants, with evidence; each method's module has some.

A rule names a program and the variants that the program loads. Quantmill promises nothing beyond the rules.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field

Device = Literal["cpu", "cuda"]


class Facts(NamedTuple):
    """The facts of a variant that decide which programs load it; None: not recorded.

    Some checkpoints that were quantized elsewhere do not state all facts.
    """

    bits: int
    kind: str = ""
    """The named type: `nf4`, `Q4_K_M`."""
    symmetric: bool | None = None
    act_order: bool | None = False
    """Whether columns are quantized in order of falling activation and have groups (GPTQ's `desc_act`)."""
    group_size: int | None = 0
    mixed: bool = False
    """Whether single layers have another bit width."""
    packing: str = ""
    """AutoRound's `export_format`."""
    opened_by: str = ""
    """The library that the variant was measured with; empty: not known."""


class Loads(BaseModel):
    """A rule: the program loads the variants that meet every condition; an empty condition always holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    program: str = Field(description="The program, as `--where runtime=` names it.")
    version: str = Field(description="The version of the program in the evidence.")
    evidence: Literal["ran", "read"] = Field(description="The program ran here, or its source or documents were read.")
    date: str = Field(pattern=r"^20\d\d-\d\d$", description="Year and month of the evidence.")
    devices: tuple[Device, ...] = Field(default=("cpu", "cuda"), description="Devices that the program computes on.")
    needs: str = Field(default="", description="What the program or the machine needs in addition.")
    plugin: bool = Field(default=False, description="Whether `needs` is a package that the program does not bring.")
    bits: tuple[int, ...] = Field(default=(), description="Nominal bit widths.")
    kind: tuple[str, ...] = Field(default=(), description="Named types.")
    symmetric: tuple[bool, ...] = Field(default=(), description="Whether the grid is symmetric.")
    act_order: tuple[bool, ...] = Field(default=(), description="Whether columns are reordered and have groups.")
    group_size: tuple[int, ...] = Field(default=(), description="Weights that share a scale; -1: a whole row.")
    mixed: tuple[bool, ...] = Field(default=(), description="Whether single layers have another bit width.")
    packing: tuple[str, ...] = Field(default=(), description="AutoRound's export formats.")
    opened_by: tuple[str, ...] = Field(default=(), description="Libraries that the variant was measured with.")

    def refuses(self, facts: Facts) -> str:
        """Return the first condition that a variant does not meet, in words; empty: it meets all."""
        for name in Facts._fields:
            allowed, found = getattr(self, name), getattr(facts, name)
            if allowed and found not in allowed:
                has = "not recorded" if found is None else _said(found)
                return f"takes {_condition(name, allowed)}, here: {has}"
        return ""

    @property
    def is_promise(self) -> bool:
        """Whether `--where runtime=` and tables use the rule: the program ran here and needs no plugin."""
        return self.evidence == "ran" and not self.plugin

    @property
    def title(self) -> str:
        """The program's name in sentences."""
        return {"vllm": "vLLM", "ollama": "Ollama", "lm studio": "LM Studio"}.get(self.program, self.program)

    @property
    def conditions(self) -> list[str]:
        """The conditions in words, except the library of the measurement, which is no property of a variant."""
        named = [name for name in Facts._fields if name != "opened_by"]
        return [_condition(name, allowed) for name in named if (allowed := getattr(self, name))]

    @property
    def place(self) -> str:
        """The program with version, device and needs, for cards and tables."""
        where = "" if self.devices == get_args(Device) else {"cpu": "on processors", "cuda": "on GPUs"}[self.devices[0]]
        return " ".join(filter(None, (self.title, self.version, where, self.needs and f"with {self.needs}")))

    @property
    def proof(self) -> str:
        """The evidence in words."""
        return f"ran, {self.date}" if self.evidence == "ran" else f"read, {self.date}, not run"


def programs_for(rules: Iterable[Loads], facts: Facts) -> tuple[str, ...]:
    """Return the programs that were seen to load a variant with these facts, without a plugin."""
    return tuple(dict.fromkeys(rule.program for rule in rules if rule.is_promise and not rule.refuses(facts)))


def facts_of(variant: Mapping[str, Any], opened_by: str = "") -> Facts:
    """Return the facts of a variant from the choices in its manifest or its `canonical()`.

    For a checkpoint that was quantized elsewhere only the packing is known.
    """
    packing = variant.get("packing")
    if isinstance(packing, Mapping):
        group = packing.get("group_size")
        return Facts(
            bits=int(packing.get("bits", 0)),
            kind=str(packing.get("type", "")),
            act_order=None,
            group_size=group if isinstance(group, int) and group else None,
            mixed=bool(packing.get("mixed")),
            opened_by=opened_by,
        )
    group = variant.get("group_size")
    symmetric = variant.get("sym") if "zero_point" not in variant else not variant["zero_point"]
    return Facts(
        bits=int(variant.get("bits", 0)),
        kind=str(variant.get("type") or ""),
        symmetric=symmetric,
        act_order=bool(variant.get("desc_act")) and group != -1,
        group_size=group,
        mixed=bool(variant.get("layers")),
        packing=str(variant.get("export_format") or ""),
        opened_by=opened_by,
    )


def _condition(name: str, allowed: tuple[Any, ...]) -> str:
    if name == "bits":
        return f"{_listed(allowed)} bits"
    if name == "kind":
        return _listed(allowed)
    if name == "symmetric":
        return "symmetric" if allowed == (True,) else "asymmetric"
    if name == "act_order":
        return "no desc_act with groups" if allowed == (False,) else "desc_act with groups"
    if name == "group_size":
        return f"groups of {_listed(allowed)}"
    if name == "mixed":
        return "one width for all layers" if allowed == (False,) else "several widths"
    return f"packed as {_listed(allowed)}" if name == "packing" else f"measured with {_listed(allowed)}"


def _listed(values: tuple[Any, ...]) -> str:
    *most, last = map(_said, values)
    return f"{', '.join(most)} or {last}" if most else last


def _said(value: object) -> str:
    return (
        {True: "yes", False: "no"}[value] if isinstance(value, bool) else "a whole row" if value == -1 else str(value)
    )
