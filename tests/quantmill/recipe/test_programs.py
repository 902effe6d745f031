"""Bits, symmetry, order, groups and widths of a variant decide which programs load it.

The rules are those of the methods.
"""

import re
from pathlib import Path
from typing import Any

import pytest

from quantmill.recipe.methods import METHODS
from quantmill.recipe.programs import Loads, facts_of, programs_for

LOCK = dict(
    re.findall(
        r"^([\w-]+)==(\S+)", (Path(__file__).parents[3] / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE
    )
)
PACKAGES = {"transformers": "transformers", "gptqmodel": "gptqmodel", "hqq": "hqq", "llama.cpp": "llama-cpp-python"}
PLAIN = {"bits": 4, "group_size": 64, "desc_act": False, "sym": True}


def takes(method: str, program: str, device: str, **variant: Any) -> str:
    """Return the first refusal of a program's rules for a device, or an empty string if a rule takes it."""
    rules = [rule for rule in METHODS[method].programs if rule.program == program and device in rule.devices]
    said = [rule.refuses(facts_of(variant, variant.pop("opened_by", "transformers"))) for rule in rules]
    return said[0] if said and all(said) else "" if said else "no rule"


@pytest.mark.parametrize(
    ("variant", "device", "words"),
    [
        (PLAIN, "cuda", ""),
        (PLAIN | {"bits": 8}, "cuda", ""),
        (PLAIN | {"bits": 8}, "cpu", "takes 4 bits, here: 8"),
        (PLAIN | {"bits": 3}, "cuda", "takes 4 or 8 bits, here: 3"),
        (PLAIN | {"sym": False}, "cuda", "takes symmetric, here: no"),
        (PLAIN | {"desc_act": True}, "cuda", "takes no desc_act with groups, here: yes"),
        (PLAIN | {"desc_act": True, "group_size": -1}, "cuda", ""),
        (PLAIN | {"group_size": 16}, "cuda", "takes groups of a whole row, 32, 64 or 128, here: 16"),
        (PLAIN | {"layers": [{"match": "q", "bits": 8}]}, "cpu", "takes one width for all layers, here: yes"),
        ({"bits": 4, "packing": {"method": "gptq", "bits": 4, "group_size": 64}}, "cuda", "symmetric, here: not recorded"),
    ],
)  # fmt: skip
def test_what_vllm_takes_of_gptq(variant: dict[str, Any], device: str, words: str) -> None:
    found = takes("gptq", "vllm", device, **variant)
    assert found.endswith(words) if words else not found


def test_a_plugin_or_a_source_that_was_read_is_no_promise() -> None:
    assert programs_for(METHODS["bitsandbytes"].programs, facts_of({"bits": 4, "type": "nf4"})) == ("transformers",)
    assert programs_for(METHODS["gptq"].programs, facts_of(PLAIN, "transformers")) == ("transformers", "gptqmodel")
    assert programs_for(METHODS["gptq"].programs, facts_of(PLAIN, "gptqmodel")) == ("gptqmodel",)
    assert programs_for(METHODS["gguf"].programs, facts_of({"bits": 4, "type": "Q4_0"})) == ("llama.cpp",)


@pytest.mark.parametrize(
    "rule", [rule for row in METHODS.values() for rule in row.programs], ids=lambda rule: rule.place
)
def test_what_ran_here_ran_with_the_locked_version(rule: Loads) -> None:
    """The contract test opens every method's artifacts, so the evidence is for the locked version."""
    if rule.ran and rule.program in PACKAGES:
        assert rule.by.version == LOCK[PACKAGES[rule.program]]


def test_several_widths_are_no_refusal_where_fused_layers_agree() -> None:
    facts = facts_of(PLAIN | {"layers": [{"match": "down_proj", "bits": 8}]}, "gptqmodel")
    fitting = [rule.place for rule in METHODS["gptq"].programs if not rule.refuses(facts)]
    assert fitting == ["gptqmodel 7.6.0", "vLLM 0.32.0 on GPUs with one width for q, k, v and one for gate, up"]
