"""Which programs load which variants: rules with their evidence. A method's module holds the rules of its variants.

A rule names a program and the variants that the program takes. What no rule allows, nobody promises.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field

Device = Literal["cpu", "cuda"]


class Facts(NamedTuple):
    """What decides who loads a variant. None: nobody recorded it, as of some checkpoints that were quantized elsewhere."""

    bits: int
    kind: str = ""
    """The named type: `nf4`, `Q4_K_M`."""
    symmetric: bool | None = None
    act_order: bool | None = False
    """Whether columns are quantized by falling activation while groups of them share a scale (GPTQ's `desc_act`)."""
    group_size: int | None = 0
    mixed: bool = False
    """Whether single layers have another width."""
    packing: str = ""
    """How AutoRound packs: its `export_format`."""
    opened_by: str = ""
    """The library that opened the variant while it was measured; empty: as the method's row says."""


class Loads(BaseModel):
    """A rule: a program loads the variants that fit every condition; an empty condition fits all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    program: str = Field(description="The program, as `--where runtime=` names it.")
    version: str = Field(description="The program's version that the evidence is of.")
    evidence: Literal["ran", "read"] = Field(description="Whether it ran here, or its source or documents were read.")
    date: str = Field(pattern=r"^20\d\d-\d\d$", description="When, as year and month.")
    devices: tuple[Device, ...] = Field(default=("cpu", "cuda"), description="Where it computes.")
    needs: str = Field(default="", description="What must be added to the program or the machine.")
    plugin: bool = Field(default=False, description="Whether `needs` is a package that the program does not bring.")
    bits: tuple[int, ...] = Field(default=(), description="Nominal bit widths.")
    kind: tuple[str, ...] = Field(default=(), description="Named types.")
    symmetric: tuple[bool, ...] = Field(default=(), description="Whether the grid is symmetric.")
    act_order: tuple[bool, ...] = Field(default=(), description="Whether columns are reordered and have groups.")
    group_size: tuple[int, ...] = Field(default=(), description="Weights that share a scale; -1: a whole row.")
    mixed: tuple[bool, ...] = Field(default=(), description="Whether single layers have another width.")
    packing: tuple[str, ...] = Field(default=(), description="AutoRound's formats.")
    opened_by: tuple[str, ...] = Field(default=(), description="The library that opened it while it was measured.")

    def refuses(self, facts: Facts) -> str:
        """Return the first condition that a variant does not fit, in words; empty: it fits all."""
        for name in Facts._fields:
            allowed, found = getattr(self, name), getattr(facts, name)
            if allowed and found not in allowed:
                has = "not recorded" if found is None else _said(found)
                return f"takes {_condition(name, allowed)}, here: {has}"
        return ""

    @property
    def is_promise(self) -> bool:
        """Whether `--where runtime=` and tables rely on the rule: it ran here, and the program brings all that it needs."""
        return self.evidence == "ran" and not self.plugin

    @property
    def title(self) -> str:
        """The program's name in sentences."""
        return {"vllm": "vLLM", "ollama": "Ollama", "lm studio": "LM Studio"}.get(self.program, self.program)

    @property
    def conditions(self) -> list[str]:
        """What a variant must be, in words; a library that measured it is no property of the method's variants."""
        named = [name for name in Facts._fields if name != "opened_by"]
        return [_condition(name, allowed) for name in named if (allowed := getattr(self, name))]

    @property
    def place(self) -> str:
        """The program with its version, the device and what it needs, as cards and tables print them."""
        where = "" if self.devices == get_args(Device) else {"cpu": "on processors", "cuda": "on GPUs"}[self.devices[0]]
        return " ".join(filter(None, (self.title, self.version, where, self.needs and f"with {self.needs}")))

    @property
    def proof(self) -> str:
        """The evidence in words."""
        return f"ran, {self.date}" if self.evidence == "ran" else f"read, {self.date}, not run"


def programs_for(rules: Iterable[Loads], facts: Facts) -> tuple[str, ...]:
    """Return the programs that were seen to load such a variant, without a plugin."""
    return tuple(dict.fromkeys(rule.program for rule in rules if rule.is_promise and not rule.refuses(facts)))


def facts_of(variant: Mapping[str, Any], opened_by: str = "") -> Facts:
    """Return what decides who loads a variant: of the choices that its manifest or `canonical()` names.

    Of a checkpoint that was quantized elsewhere only its packing is known.
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
