"""GPTQ (arXiv:2210.17323) through GPTQModel, the maintained successor of auto-gptq."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quantmill.artifact import QuantizedTensor
from quantmill.recipe import VariantSpec
from tasks import tensors

_RUN_DEPENDENT = ("offload_to_disk_path", "offload_to_disk", "quantizer_timestamp")


def quantize(
    source: Path,
    spec: VariantSpec,
    calibration: Path | None,
    out: Path,
    device: str,
    progress: Callable[[str, int, int], None],
) -> list[QuantizedTensor]:
    """Quantize layer by layer on the calibration windows.

    GPTQModel rounds to nearest, silently, where a layer saw too few tokens or its Hessian has no inverse; its log then
    holds words where the loss would be. Those modules are reported as fallbacks.
    """
    if calibration is None:
        raise ValueError("gptq needs calibration windows")
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # with one, its pool of two model loaders refuses to start
    os.environ["GPTQMODEL_DISABLE_PACK_EXT"] = "1"  # else it compiles an extension at run time
    import torch
    from gptqmodel import GPTQModel, QuantizeConfig
    from safetensors.torch import load_file

    layers = json.loads((source / "config.json").read_text())["num_hidden_layers"]
    config = QuantizeConfig(
        bits=spec.bits,
        group_size=spec.group_size,
        desc_act=spec.desc_act,
        sym=spec.sym,
        damp_percent=spec.damp_percent,
    )
    progress("layer", 0, layers)
    model = GPTQModel.load(str(source), config, device=device)
    model.layer_callback = _LayerProgress(progress, layers)
    windows = load_file(calibration)["input_ids"].long()
    model.quantize([{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in windows], batch_size=1)
    model.save(str(out))
    replaced = _fallbacks(model.quant_log)
    _scrub(out)
    return tensors.account(source, out, scheme="gptq", replaced=replaced)


class _LayerProgress:
    """Tells how many layers are packed; the engine calls it from several threads, in any order."""

    def __init__(self, progress: Callable[[str, int, int], None], total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def layer_complete(self, *, layer_idx: int, submodule_finalized: bool) -> None:  # noqa: ARG002
        """Count a layer once it is packed."""
        if submodule_finalized:
            self._done += 1
            self._progress("layer", min(self._done, self._total), self._total)


def _fallbacks(log: list[dict[str, Any]]) -> dict[str, str]:
    """Return end of a module name -> why it was rounded to nearest: its loss is no number."""
    found = {}
    for entry in log:
        try:
            float(entry["loss"])
        except ValueError:
            found[f".{entry['layer']}.{entry['module']}"] = f"rounded to nearest: {entry['loss']}"
    return found


def _scrub(out: Path) -> None:
    """Drop what differs from run to run: a random temporary path in the configs, timings in a log."""
    (out / "quant_log.csv").unlink(missing_ok=True)

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clean(part) for key, part in value.items() if key not in _RUN_DEPENDENT}
        return [clean(part) for part in value] if isinstance(value, list) else value

    for name in ("config.json", "quantize_config.json"):
        if (path := out / name).exists():
            text = json.dumps(
                clean(json.loads(path.read_text(encoding="utf-8"))), indent=2, sort_keys=True, ensure_ascii=False
            )
            path.write_text(text + "\n", encoding="utf-8")
