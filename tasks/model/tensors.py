"""Records how each weight was stored, from the safetensors headers of source and artifact."""

import json
import math
from pathlib import Path

from quantmill.files import safetensors_header
from quantmill.files.safetensors_header import Tensor
from quantmill.recipe import layer_rules
from quantmill.recipe.layer_rules import LayerRule
from quantmill.records.artifact import QuantizedTensor
from tasks.model.files import weight_files

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_FLOATS = {"F64": "f64", "F32": "f32", "F16": "f16", "BF16": "bf16"}
_OUTSIDE = ("embed", "wte", "wpe", "lm_head", "norm", "ln_", "project_in", "project_out")
_ROUTERS = (".gate.weight", ".router.weight", "_expert_gate.weight", ".router.layer.weight")  # no method rounds them

# transformers 5 renames Mixtral's experts while it loads. GPTQModel saves the new names, AutoRound only new last parts.
_PARTS = {".w1.": ".gate_proj.", ".w3.": ".up_proj.", ".w2.": ".down_proj."}
_RENAMED = {".block_sparse_moe.": ".mlp."} | _PARTS

Header = dict[str, Tensor]


def read_headers(folder: Path) -> Header:
    """Return tensor name -> (dtype, shape) over all safetensors files of a folder."""
    found: Header = {}
    for path in weight_files(folder):
        found |= safetensors_header.read_header(path)
    return found


def linear_names(source: Path) -> list[str]:
    """Return the names of the matrices that methods quantize: the decoder's, without head and embeddings."""
    headers = read_headers(source).items()
    return sorted(name.removesuffix(".weight") for name, (_, shape) in headers if _is_matrix(name, shape))


def choose_bits(rules: tuple[LayerRule, ...], source: Path) -> dict[str, int]:
    """Return module name -> bits for the modules that a rule of `layers` matches.

    Raises:
        RecipeError: a rule matches nothing.
    """
    return layer_rules.choose_bits(rules, linear_names(source)) if rules else {}


def left(chosen: dict[str, int]) -> frozenset[str]:
    """Return the modules that the request leaves unquantized."""
    return frozenset(name for name, bits in chosen.items() if bits == 16)


def layer_count(source: Path) -> int:
    """Return the number of decoder layers that the config states."""
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config = config.get("text_config") or config
    return int(config.get("num_hidden_layers") or config["n_layer"])


def _is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and not any(word in name for word in _OUTSIDE) and not name.endswith(_ROUTERS)


def renamed(name: str, names: dict[str, str] = _RENAMED) -> str:
    """Return a module's or tensor's name in transformers."""
    if ".block_sparse_moe." not in name:
        return name
    name = f"{name}."
    for old, new in names.items():
        name = name.replace(old, new)
    return name.removesuffix(".")


def expert_share(source: Path) -> float:
    """Return the share of the decoder's weights that belong to experts."""
    headers = read_headers(source).items()
    sizes = {
        name: math.prod(shape) for name, (_, shape) in headers if _is_matrix(name, shape) or _is_fused(name, shape)
    }
    return sum(size for name, size in sizes.items() if ".experts." in name) / max(sum(sizes.values()), 1)


def transposed(source: Path) -> bool:
    """Return whether matrices are stored as (in, out), as in GPT-2's `Conv1D`.

    The test is the matrix of query, key and value side by side, which is wider than high.
    """
    shapes = [shape for name, (_, shape) in read_headers(source).items() if name.endswith("attn.c_attn.weight")]
    return any(len(shape) == 2 and shape[1] > shape[0] for shape in shapes)


def merged(source: Path) -> bool:
    """Return whether gate and up projection are one matrix, as in Phi 3."""
    return any(name.endswith("mlp.gate_up_proj.weight") for name in read_headers(source))


def _is_fused(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and ".experts." in name


def account(
    source: Path,
    out: Path,
    scheme: str,
    replaced: dict[str, str] | None = None,
    left: frozenset[str] = frozenset(),
) -> list[QuantizedTensor]:
    """Return one record per weight of the source.

    A matrix of the decoder that is still a float although `scheme` is an integer type counts as a fallback.

    Args:
        source: the snapshot's folder.
        out: the artifact's folder.
        scheme: the type in which the method stores a matrix.
        replaced: end of a module's name -> why the engine treated the module differently.
        left: modules that the request leaves unquantized.
    """
    made, known, records = read_headers(out), read_headers(source), []
    for name, (_, shape) in sorted(known.items()):
        parameters = math.prod(shape)
        stem = name.removesuffix(".weight")
        kept = made.get(name)
        reason = next((why for module, why in (replaced or {}).items() if stem.endswith(module)), "")
        if kept and kept[0] in _FLOATS and math.prod(kept[1]) == parameters:
            asked = _is_matrix(name, shape) and stem not in left and scheme not in _FLOATS.values()
            reason = reason or (f"left in {_FLOATS[kept[0]]}" if asked else "")
            records.append(_record(name, _FLOATS[kept[0]], 8.0 * _BYTES[kept[0]], parameters, reason))
            continue
        stems = tuple(f"{end}." for end in (stem, name, renamed(stem), renamed(stem, _PARTS)))
        own = (part for part in made if part == name or part not in known)  # a bias has a record of its own
        parts = [made[part] for part in own if part == name or part.startswith(stems)]
        if parts:
            stored = sum(_BYTES[kind] * math.prod(size) for kind, size in parts)
            records.append(_record(name, scheme, 8 * stored / parameters, parameters, reason))
        elif _is_matrix(name, shape):  # the engine renamed or dropped it
            records.append(_record(name, "unknown", 16.0, parameters, "not in the artifact under its name"))
    return records


def _record(name: str, scheme: str, bits: float, parameters: int, fallback: str) -> QuantizedTensor:
    return QuantizedTensor(name=name, scheme=scheme, bits=bits, parameters=parameters, fallback=fallback)
