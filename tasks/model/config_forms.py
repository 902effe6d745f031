"""Writes RoPE and the weights' type of a config.json in two forms: transformers 5's and the older one.

transformers 5 writes `rope_parameters` and `dtype`. The older form, which transformers 4, vLLM and others read, has
`rope_theta`, `rope_scaling`, `partial_rotary_factor` and `torch_dtype`. A reader of the older form that finds only the
newer form uses its default theta without a warning.
"""

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from quantmill.recipe.recipe import VariantSpec
from quantmill.records.artifact import Artifact
from quantmill.store.store import Store
from tasks import engine_code
from tasks.model.architecture import read_config

_REVISION = 1
MISSES = "transformers 4 misses "
"""First words of the mark of a checkpoint that is published unchanged and whose config lacks fields of the older form."""
_NAMES = dict.fromkeys(("gpt_neox", "gpt_neox_japanese"), ("rotary_emb_base", "rotary_pct"))
_USUAL_NAMES = ("rope_theta", "partial_rotary_factor")
_BY_LAYER = {
    **dict.fromkeys(("gemma3_text", "gemma3n_text"), ("rope_theta", "rope_local_base_freq")),
    "modernbert-decoder": ("global_rope_theta", "local_rope_theta"),
    "olmo3": ("rope_theta", "rope_theta"),
}
"""Model type -> the older form's names of theta in layers with full attention and in layers with a sliding window."""
_PHI3_SCALING = {"type", "short_factor", "long_factor"}  # transformers 4 demands exactly these three
_PATTERNED = ("gemma3_text", "cohere2")


def both_forms(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config with RoPE and the weights' type in both forms; existing fields stay unchanged.

    A theta that the config does not state is not added, nor are values that the older form cannot express.

    Args:
        config: the content of a config.json; not modified.
    """
    out, kind = dict(config), str(config.get("model_type"))
    for name, other in (("dtype", "torch_dtype"), ("torch_dtype", "dtype")):
        if out.get(name) is not None and out.get(other) is None:
            out[other] = out[name]
    if kind in _PATTERNED and (period := _period(out.get("layer_types"))):
        out["sliding_window_pattern"] = out.get("sliding_window_pattern") or period
    if isinstance(out.get("text_config"), dict):
        out["text_config"] = both_forms(out["text_config"])
    found = _part(out.get("rope_parameters"))
    if kind in _BY_LAYER:
        return _by_layer_type(out, found)
    nested = any(isinstance(part, dict) for part in found.values())
    return out if nested else _for_all_layers(out, found)


def revision(spec: VariantSpec) -> int:
    """Return the revision of the config's form for an artifact's key; 0: config published unchanged.

    After a change of the revision, stored artifacts get a new config without running an engine.
    """
    return 0 if spec.method == "imported" and spec.format != "gguf" else _REVISION


def complete(path: Path) -> bool:
    """Rewrite a config.json in both forms; return whether the content changed."""
    config = json.loads(path.read_text(encoding="utf-8"))
    if (out := both_forms(config)) == config:
        return False
    path.unlink()  # the path may be a link to the store's own file
    path.write_text(json.dumps(out, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    return True


def missed(artifact: Artifact, store: Store) -> tuple[str, ...]:
    """Return a mark with the fields of the older form that an artifact's config lacks; () if none.

    Raises:
        BlobMissing, VerificationError: the config is no longer in the store.
    """
    config = read_stored(artifact, store)
    added = sorted(name for name, value in both_forms(config).items() if value is not None and name not in config)
    older = [name for name in added if name not in ("dtype", "rope_parameters")]
    return (MISSES + " and ".join(older),) if older else ()


def read_stored(artifact: Artifact, store: Store) -> dict[str, Any]:
    """Return the config of a stored artifact.

    Raises:
        BlobMissing, VerificationError: the config is no longer in the store.
    """
    with tempfile.TemporaryDirectory() as folder:
        store.fetch(tuple(file for file in artifact.files if file.path == "config.json"), Path(folder))
        return read_config(Path(folder))


def _for_all_layers(out: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Add the missing fields if all layers share one RoPE.

    `rope_scaling` has priority over `rope_parameters`, as in transformers 5.
    """
    older = _NAMES.get(str(out.get("model_type")), _USUAL_NAMES)
    scaled = dict(_part(out.get("rope_scaling")) or found)
    said = {name: scaled.pop(name, out.get(old)) for name, old in zip(_USUAL_NAMES, older, strict=True)}
    own = {name: value for name, value in said.items() if value is not None}
    if not scaled and "rope_theta" not in own:
        return out
    kind = scaled.pop("rope_type", None) or scaled.get("type") or "default"
    scaled.pop("type", None)
    if kind == "longrope" and "original_max_position_embeddings" in scaled:
        out.setdefault("original_max_position_embeddings", scaled["original_max_position_embeddings"])
    if not found and _turns_plainly(str(out.get("model_type"))):
        out["rope_parameters"] = {"rope_type": kind, **scaled, **own}
    if not out.get("rope_scaling"):
        plain = kind == "default" and not scaled
        out["rope_scaling"] = None if plain else _scaling(out, {"rope_type": kind, **scaled})
    for name, old in zip(_USUAL_NAMES, older, strict=True):
        if name in own:
            out.setdefault(old, own[name])
    return out


@cache
def _turns_plainly(model_type: str) -> bool:
    """Return whether a model type's `rope_parameters` in transformers 5 hold only the older form's values.

    Some types add a scaling of their own to theta, or a rule for each layer type. This is read from their source.
    """
    text = engine_code.read("transformers", f"models/{model_type}/configuration_{model_type}.py")
    return "rope_parameters:" in text and ("self.rope_parameters" not in text or model_type in ("phi3", *_NAMES))


def _scaling(out: dict[str, Any], scaling: dict[str, Any]) -> dict[str, Any]:
    """Return `rope_scaling` in transformers 4's form: for Phi 3 three fields, if no other would be lost."""
    if out.get("model_type") != "phi3":
        return scaling
    named = {"type": scaling["rope_type"]} | {name: value for name, value in scaling.items() if name != "rope_type"}
    short = {name: value for name, value in named.items() if name != "original_max_position_embeddings"}
    return short if short.keys() == _PHI3_SCALING else named


def _by_layer_type(out: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Add the missing fields if layers with full attention and with a sliding window have different RoPE.

    Layers with full attention may be scaled; layers with a sliding window have a theta of their own.
    """
    names = _BY_LAYER[out["model_type"]]
    full = dict(_part(found.get("full_attention")) or _part(out.get("rope_scaling")))
    sliding = _part(found.get("sliding_attention"))
    theta, local = full.pop("rope_theta", out.get(names[0])), sliding.get("rope_theta", out.get(names[1]))
    kind = full.pop("rope_type", None) or full.get("type") or "default"
    full.pop("type", None)
    alike = names[0] != names[1] or theta == local
    if theta is None or local is None or not alike or sliding.get("rope_type", "default") != "default":
        return out
    if not found and out["model_type"].startswith("gemma3"):
        out["rope_parameters"] = {
            "full_attention": {"rope_type": kind, **full, "rope_theta": theta},
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
        }
    if not out.get("rope_scaling"):
        out["rope_scaling"] = None if kind == "default" else {"rope_type": kind, **full}
    for name, value in zip(names, (theta, local), strict=True):
        out.setdefault(name, value)
    return out


def _period(kinds: object) -> int:
    """Return n if exactly every n-th layer has full attention; 0 if the layers follow no such period."""
    sliding = [kind == "sliding_attention" for kind in kinds] if isinstance(kinds, list) else []
    period = sliding.index(False) + 1 if False in sliding else 0
    regular = sliding == [bool((layer + 1) % period) for layer in range(len(sliding))] if period else False
    return period if regular else 0


def _part(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
