"""Finds settings of a config that llama.cpp ignores, from the converter's source and before any work.

llama.cpp's converter silently skips settings that it does not know. A model is refused if its GGUF would be wrong at every
length. It gets a mark if its GGUF is wrong only beyond a number of tokens (sliding window, dynamic NTK). Each rule was
measured against transformers (docs/decisions.md). Settings that no rule covers show in the divergence of the F32 file
(`tasks/convert`, `flows/conversions.py`).
"""

import ast
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from quantmill.records.artifact import Architecture
from tasks import engine_code
from tasks.model import architecture
from tasks.support import gguf

Rule = Callable[[str, dict[str, Any]], str]
PAST = 512
"""Tokens by which the longer text exceeds a sliding window or the length of an unscaled rotary embedding."""
_MODULE = "export/export_to_gguf/conversion/{}.py"
_ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function")
_GELU = "gelu"  # its approximations differ by a divergence of less than 1e-5; the noise floor decides
_PERIODS = {"Gemma2": 2, "Gemma3": 6}  # llama.cpp's fixed periods: every second or sixth layer has full attention
_NOT_SLIDING = ("Phi3",)  # llama.cpp reads the window but does not use it


def refusal(name: str, config: dict[str, Any]) -> str:
    """Return why a GGUF of a model of class `name` would be wrong at every length; empty: it would not."""
    return next((why for rule in RULES if (why := rule(name, config))), "")


def obstacle(model: Architecture, folder: Path) -> str:
    """Return why the model in `folder` cannot become a GGUF or its GGUF would be wrong; empty: neither."""
    return gguf.obstacle(model.name, folder) or refusal(model.name, architecture.read_config(folder))


def right_up_to(name: str, config: dict[str, Any]) -> tuple[int, str]:
    """Return up to how many tokens a GGUF follows the config, and the config's key that sets the limit.

    (0, "") means that the GGUF follows the config at any length.
    """
    return min((found for limit in LIMITS if (found := limit(name, config))), default=(0, ""))


def longer_text(name: str, config: dict[str, Any]) -> int:
    """Return how many tokens a text needs to test a sliding window or scaled rotary embedding; 0: no test.

    The text is 512 tokens longer than the window or than the embedding's unscaled length. It is not longer than the model
    allows, nor than `right_up_to`.
    """
    known, _ = right_up_to(name, config)
    kind, scaled = _rope(config)
    positions = _whole(config.get("max_position_embeddings"))
    reaches, factor = list[int](), float(scaled.get("factor") or 1)
    if (window := _window(config)) and window < (known or positions):
        reaches.append(window)
    if kind == "dynamic":
        reaches += [] if known else [positions]
        positions = int(positions * factor)
    elif kind:
        original = scaled.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
        reaches.append(_whole(original) or int(positions / factor))
    return min(max(reaches) + PAST, positions, known or positions) if reaches else 0


def likely_cause(name: str, config: dict[str, Any]) -> str:
    """Return the config's key and value that the converter most likely ignores."""
    kind, scaled = _rope(config)
    if kind:
        plain = {key: value for key, value in scaled.items() if not isinstance(value, (list, dict)) and key != "type"}
        return f"rope_parameters: {', '.join(f'{key} {value}' for key, value in sorted(plain.items()))}"
    if any(_sliding_layers(config)) and name.startswith(tuple(_PERIODS)):
        return "layer_types (sliding_window_pattern)"
    if window := _window(config):
        return f"sliding_window: {window}"
    key, value = _activation(config)
    return f"{key}: {value}" if key else "none that is known"


def _activation_is_fixed(name: str, config: dict[str, Any]) -> str:
    key, asked = _activation(config)
    usual = _default(str(config.get("model_type", "")), key)
    if not asked or not usual or key in _code(name) or _same(asked, usual):
        return ""
    return f"llama.cpp always computes {usual} in {name} and ignores the config's {key}: {asked}"


def _rope_is_dropped(name: str, config: dict[str, Any]) -> str:
    kind, scaled = _rope(config)
    own = _code(name).lower()
    if kind in ("longrope", "su") and "long_factor" not in own:
        return f"llama.cpp's converter drops the factors of rope_parameters: rope_type {kind} for {name}"
    if kind != "yarn" or "yarn" in own:
        return ""
    for key in ("attention_factor", "mscale", "mscale_all_dim"):
        if scaled.get(key) is not None:
            return f"llama.cpp computes YaRN's attention factor itself and ignores rope_parameters: {key} {scaled[key]}"
    if scaled.get("truncate") is False:
        return "llama.cpp rounds the bounds of YaRN's ramp and ignores rope_parameters: truncate false"
    return ""


def _pattern_is_fixed(name: str, config: dict[str, Any]) -> str:
    period = next((period for family, period in _PERIODS.items() if name.startswith(family)), 0)
    sliding = _sliding_layers(config)
    if not period or not sliding or sliding == [bool((layer + 1) % period) for layer in range(len(sliding))]:
        return ""
    return (
        f"llama.cpp gives layers {period}, {2 * period}, ... of {name} full attention; the config's layer_types differ"
    )


def _window_is_dropped(name: str, config: dict[str, Any]) -> tuple[int, str] | None:
    window, positions = _window(config), _whole(config.get("max_position_embeddings"))
    kept = "sliding_window" in _code(name) and not name.startswith(_NOT_SLIDING)
    return (window, "sliding_window") if window and window < positions and not kept else None


def _dynamic_is_dropped(name: str, config: dict[str, Any]) -> tuple[int, str] | None:
    dropped = _rope(config)[0] == "dynamic" and "dynamic" not in _code(name)
    return (_whole(config.get("max_position_embeddings")), "rope_type dynamic") if dropped else None


RULES: tuple[Rule, ...] = (_activation_is_fixed, _rope_is_dropped, _pattern_is_fixed)
"""Rules for models whose GGUF would be wrong at every length."""
LIMITS: tuple[Callable[[str, dict[str, Any]], tuple[int, str] | None], ...] = (_window_is_dropped, _dynamic_is_dropped)
"""Rules for models whose GGUF is wrong only beyond a number of tokens."""


def _rope(config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the type of the rotary embedding's scaling and its parameters; the type is empty if unscaled."""
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    found = found.get("full_attention", found) if isinstance(found, dict) else {}
    kind = str(found.get("rope_type") or found.get("type") or "default")
    return ("" if kind in ("default", "mrope", "proportional") else kind), found


def _window(config: dict[str, Any]) -> int:
    """Return the size of the sliding window; 0: no layer has one."""
    sliding = _sliding_layers(config)
    if config.get("use_sliding_window") is False or (sliding and not any(sliding)):
        return 0
    return _whole(config.get("sliding_window"))


def _sliding_layers(config: dict[str, Any]) -> list[bool]:
    """Return for each layer whether it has a sliding window; empty: the config does not say."""
    if isinstance(kinds := config.get("layer_types"), list):
        return [kind == "sliding_attention" for kind in kinds]
    pattern, layers = _whole(config.get("sliding_window_pattern")), _whole(config.get("num_hidden_layers"))
    return [bool((layer + 1) % pattern) for layer in range(layers)] if pattern else []


def _activation(config: dict[str, Any]) -> tuple[str, str]:
    return next(((key, str(config[key])) for key in _ACTIVATIONS if config.get(key)), ("", ""))


def _same(one: str, other: str) -> bool:
    names = {name.replace("swish", "silu") for name in (one, other)}
    return len(names) == 1 or all(name.startswith(_GELU) for name in names)


@cache
def _default(model_type: str, key: str) -> str:
    """Return a key's default in a model type's config class, which is the value that llama.cpp builds in."""
    text = engine_code.read("transformers", f"models/{model_type}/configuration_{model_type}.py") if key else ""
    found = re.search(rf"\b{key}: [^=\n]*= \"(\w+)\"", text) if model_type.isidentifier() else None
    return found[1] if found else ""


@cache
def _code(name: str) -> str:
    """Return the code of the converter's class for an architecture and of its base classes.

    Base classes that all architectures share are left out.
    """
    classes = _classes(gguf.module_of(name))
    found = [node for node in classes if any(f"'{name}'" in ast.unparse(mark) for mark in node.decorator_list)][:1]
    for node in found:
        bases = {ast.unparse(base) for base in node.bases}
        found += [other for other in classes if other.name in bases and other not in found]
    parts = [ast.unparse(node) for node in found]
    return "\n".join(parts)


@cache
def _classes(module: str) -> tuple[ast.ClassDef, ...]:
    """Return the classes of a converter's module and of the modules that it imports, except `base`."""
    text = engine_code.read("auto_round", _MODULE.format(module)) if module else ""
    found = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    others = {other for other in re.findall(r"^from \.(\w+) import", text, re.MULTILINE) if other != "base"}
    return tuple(found) + tuple(node for other in sorted(others) for node in _classes(other))


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
