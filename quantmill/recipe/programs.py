"""Rules that say which programs load which variants, with evidence; each method's module has some.

A rule names a program and the variants that the program loads. Quantmill promises nothing beyond the rules.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field

Device = Literal["cpu", "cuda"]


class Program(NamedTuple):
    """A program in the version that the evidence is of."""

    name: str
    """As `--where runtime=` names it."""
    title: str
    """Its name in sentences."""
    version: str
    date: str
    """Year and month in which it ran, or its source or documents were read."""


TRANSFORMERS = Program("transformers", "transformers", "5.23.0", "2026-11")
GPTQMODEL = Program("gptqmodel", "gptqmodel", "7.6.0", "2026-11")
VLLM = Program("vllm", "vLLM", "0.32.0", "2026-11")
LLAMA_CPP = Program("llama.cpp", "llama.cpp", "0.3.36", "2026-11")
OLLAMA = Program("ollama", "Ollama", "November 2026", "2026-11")
LM_STUDIO = Program("lm studio", "LM Studio", "November 2026", "2026-11")
"""Programs of more than one method, and of GGUF; a program of one method is in the method's module."""


class Facts(NamedTuple):
    """The facts of a variant that decide which programs load it; None: not recorded.

    Some checkpoints that were quantized elsewhere do not state all facts.
    """

    bits: int
    symmetric: bool | None = None
    act_order: bool | None = False
    """Whether columns are quantized in order of falling activation and have groups (GPTQ's `desc_act`)."""
    group_size: int | None = 0
    mixed: bool = False
    """Whether single layers have another bit width."""
    opened_by: str = ""
    """The library that the variant was measured with; empty: not known."""


class Loads(BaseModel):
    """A rule: a program loads the variants that meet every condition; an empty condition always holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: Program = Field(description="The program, with the version in the evidence.")
    ran: bool = Field(description="Whether the program ran here; else its source or documents were read.")
    devices: tuple[Device, ...] = Field(default=("cpu", "cuda"), description="Devices that the program computes on.")
    needs: str = Field(default="", description="What the program or the machine needs in addition.")
    plugin: bool = Field(default=False, description="Whether `needs` is a package that the program does not bring.")
    bits: tuple[int, ...] = Field(default=(), description="Nominal bit widths.")
    symmetric: tuple[bool, ...] = Field(default=(), description="Whether the grid is symmetric.")
    act_order: tuple[bool, ...] = Field(default=(), description="Whether columns are reordered and have groups.")
    group_size: tuple[int, ...] = Field(default=(), description="Weights that share a scale; -1: a whole row.")
    mixed: tuple[bool, ...] = Field(default=(), description="Whether single layers have another bit width.")
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
    def program(self) -> str:
        """The program's name."""
        return self.by.name

    @property
    def is_promise(self) -> bool:
        """Whether `--where runtime=` and tables use the rule: the program ran here and needs no plugin."""
        return self.ran and not self.plugin

    @property
    def conditions(self) -> list[str]:
        """The conditions in words, except the library of the measurement, which is no property of a variant."""
        named = [name for name in Facts._fields if name != "opened_by"]
        return [_condition(name, allowed) for name in named if (allowed := getattr(self, name))]

    @property
    def place(self) -> str:
        """The program with version, device and needs, for cards and tables."""
        where = "" if self.devices == get_args(Device) else {"cpu": "on processors", "cuda": "on GPUs"}[self.devices[0]]
        return " ".join(filter(None, (self.by.title, self.by.version, where, self.needs and f"with {self.needs}")))

    @property
    def proof(self) -> str:
        """The evidence in words."""
        return f"ran, {self.by.date}" if self.ran else f"read, {self.by.date}, not run"


def ran(program: Program, **conditions: Any) -> Loads:
    """Return the rule of a program that loaded such variants here and generated."""
    return Loads(by=program, ran=True, **conditions)


def read(program: Program, **conditions: Any) -> Loads:
    """Return the rule of a program whose source or documents say that it loads such variants."""
    return Loads(by=program, ran=False, **conditions)


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
            act_order=None,
            group_size=group if isinstance(group, int) and group else None,
            mixed=bool(packing.get("mixed")),
            opened_by=opened_by,
        )
    group = variant.get("group_size")
    symmetric = variant.get("sym") if "zero_point" not in variant else not variant["zero_point"]
    return Facts(
        bits=int(variant.get("bits", 0)),
        symmetric=symmetric,
        act_order=bool(variant.get("desc_act")) and group != -1,
        group_size=group,
        mixed=bool(variant.get("layers")),
        opened_by=opened_by,
    )


def _condition(name: str, allowed: tuple[Any, ...]) -> str:
    if name == "bits":
        return f"{_listed(allowed)} bits"
    if name == "symmetric":
        return "symmetric" if allowed == (True,) else "asymmetric"
    if name == "act_order":
        return "no desc_act with groups" if allowed == (False,) else "desc_act with groups"
    if name == "group_size":
        return f"groups of {_listed(allowed)}"
    if name == "mixed":
        return "one width for all layers" if allowed == (False,) else "several widths"
    return f"measured with {_listed(allowed)}"


def _listed(values: tuple[Any, ...]) -> str:
    *most, last = map(_said, values)
    return f"{', '.join(most)} or {last}" if most else last


def _said(value: object) -> str:
    return (
        {True: "yes", False: "no"}[value] if isinstance(value, bool) else "a whole row" if value == -1 else str(value)
    )
