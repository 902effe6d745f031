"""A config.json in both forms: as transformers 5 names RoPE and the weights' type, and as 4.x, vLLM and others read them.

Transformers 5 writes `rope_parameters` and `dtype`, 4.x `rope_theta`, `rope_scaling`, `partial_rotary_factor` and
`torch_dtype`. A reader of the older form that finds the newer one alone takes its default theta, and says nothing.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from quantmill.artifact import Artifact
from quantmill.recipe import VariantSpec
from quantmill.store.store import Store
from tasks.architecture import read_config

_REVISION = 1
MISSES = "transformers 4 misses "
"""How the mark of a checkpoint begins that is published as it came, and in whose config older readers miss a field."""
_NAMES = {"gpt_neox": ("rotary_emb_base", "rotary_pct")}
_USUAL_NAMES = ("rope_theta", "partial_rotary_factor")
_PHI3_SCALING = {"type", "short_factor", "long_factor"}  # 4.x demands just these three
_PATTERNED = ("gemma3_text", "cohere2")


def both_forms(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config with RoPE and the weights' type in both forms; what each form says is left as it is.

    A theta that the config leaves to its class stays unsaid, and what the older form cannot say is left out.

    Args:
        config: the content of a config.json; not changed.
    """
    out = dict(config)
    for name, other in (("dtype", "torch_dtype"), ("torch_dtype", "dtype")):
        if out.get(name) is not None and out.get(other) is None:
            out[other] = out[name]
    if out.get("model_type") in _PATTERNED and (period := _period(out.get("layer_types"))):
        out.setdefault("sliding_window_pattern", period)
    if isinstance(out.get("text_config"), dict):
        out["text_config"] = both_forms(out["text_config"])
    found = _part(out.get("rope_parameters"))
    if str(out.get("model_type")).startswith("gemma3"):
        return _by_layer_type(out, found)
    nested = any(isinstance(part, dict) for part in found.values())
    return out if nested else _for_all_layers(out, found)


def revision(spec: VariantSpec) -> int:
    """Return what the key of an artifact says of its config; 0: the config is published as it came.

    With another revision stored artifacts get the new config, and no engine works.
    """
    return 0 if spec.method == "imported" and spec.format != "gguf" else _REVISION


def complete(path: Path) -> bool:
    """Write a config.json in both forms; return whether that changed it."""
    config = json.loads(path.read_text(encoding="utf-8"))
    if (out := both_forms(config)) == config:
        return False
    path.unlink()  # what was fetched may be a link to the store's own file
    path.write_text(json.dumps(out, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    return True


def missed(artifact: Artifact, store: Store) -> tuple[str, ...]:
    """Return the mark of an artifact whose config older readers would misread, with the fields; none where the config has them.

    Raises:
        BlobMissing, VerificationError: its config is not in the store any more.
    """
    config = read_stored(artifact, store)
    added = sorted(name for name, value in both_forms(config).items() if value is not None and name not in config)
    older = [name for name in added if name not in ("dtype", "rope_parameters")]
    return (MISSES + " and ".join(older),) if older else ()


def read_stored(artifact: Artifact, store: Store) -> dict[str, Any]:
    """Return the config of a stored artifact.

    Raises:
        BlobMissing, VerificationError: it is not in the store any more.
    """
    with tempfile.TemporaryDirectory() as folder:
        store.fetch(tuple(file for file in artifact.files if file.path == "config.json"), Path(folder))
        return read_config(Path(folder))


def _for_all_layers(out: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Add what is lacking where all layers turn alike; `rope_scaling` counts first, as in transformers 5."""
    older = _NAMES.get(str(out.get("model_type")), _USUAL_NAMES)
    scaled = dict(_part(out.get("rope_scaling")) or found)
    own = {
        name: scaled.pop(name, out.get(old))
        for name, old in zip(_USUAL_NAMES, older, strict=True)
        if name in scaled or old in out
    }
    if not scaled and "rope_theta" not in own:
        return out
    kind = scaled.pop("rope_type", None) or scaled.get("type") or "default"
    scaled.pop("type", None)
    if kind == "longrope" and "original_max_position_embeddings" in scaled:
        out.setdefault("original_max_position_embeddings", scaled["original_max_position_embeddings"])
    out["rope_parameters"] = found or {"rope_type": kind, **scaled, **own}
    if not out.get("rope_scaling"):
        out["rope_scaling"] = None if kind == "default" else _scaling(out, {"rope_type": kind, **scaled})
    for name, old in zip(_USUAL_NAMES, older, strict=True):
        if name in own:
            out.setdefault(old, own[name])
    return out


def _scaling(out: dict[str, Any], scaling: dict[str, Any]) -> dict[str, Any]:
    """Return `rope_scaling` as 4.x wants it: Phi 3 with three fields, where nothing is lost by that."""
    if out.get("model_type") != "phi3":
        return scaling
    named = {"type": scaling["rope_type"]} | {name: value for name, value in scaling.items() if name != "rope_type"}
    short = {name: value for name, value in named.items() if name != "original_max_position_embeddings"}
    return short if short.keys() == _PHI3_SCALING else named


def _by_layer_type(out: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Add what is lacking in a config of Gemma 3: the layers that see all scale, those of a window have a theta of their own."""
    full = dict(_part(found.get("full_attention")) or _part(out.get("rope_scaling")))
    sliding = _part(found.get("sliding_attention"))
    theta, local = (
        full.pop("rope_theta", out.get("rope_theta")),
        sliding.get("rope_theta", out.get("rope_local_base_freq")),
    )
    kind = full.pop("rope_type", None) or full.get("type") or "default"
    full.pop("type", None)
    if theta is None or local is None or sliding.get("rope_type", "default") != "default":
        return out
    out["rope_parameters"] = found or {
        "full_attention": {"rope_type": kind, **full, "rope_theta": theta},
        "sliding_attention": {"rope_type": "default", "rope_theta": local},
    }
    if out.get("rope_scaling") is None:
        out["rope_scaling"] = None if kind == "default" else {"rope_type": kind, **full}
    out.setdefault("rope_theta", theta)
    out.setdefault("rope_local_base_freq", local)
    return out


def _period(kinds: object) -> int:
    """Return after how many layers one sees the whole text, where all follow that period; 0: they do not."""
    sliding = [kind == "sliding_attention" for kind in kinds] if isinstance(kinds, list) else []
    period = sliding.index(False) + 1 if False in sliding else 0
    regular = sliding == [bool((layer + 1) % period) for layer in range(len(sliding))] if period else False
    return period if regular else 0


def _part(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
