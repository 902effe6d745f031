"""Runs GPTQModel for GPTQ and AWQ: loads the model, reports layers, removes run-dependent output."""

import gc
import json
import os
from pathlib import Path
from typing import Any, Protocol

from tasks.sandbox import Progress

_RUN_DEPENDENT = ("offload_to_disk_path", "offload_to_disk", "quantizer_timestamp")


def prepare() -> None:
    """Set the environment variables that GPTQModel reads while it is imported."""
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # with 1, its pool of two model loaders refuses to start
    os.environ["GPTQMODEL_DISABLE_PACK_EXT"] = "1"  # else it compiles an extension at run time


class Work(Protocol):
    """The work of a quantization; `tasks/quantize/work.py` describes each part."""

    @property
    def source(self) -> Path: ...  # noqa: D102
    @property
    def out(self) -> Path: ...  # noqa: D102
    @property
    def windows(self) -> Path: ...  # noqa: D102
    @property
    def device(self) -> str: ...  # noqa: D102
    @property
    def arithmetic(self) -> str: ...  # noqa: D102
    @property
    def progress(self) -> Progress: ...  # noqa: D102


def run(work: Work, config: Any, **options: Any) -> Any:
    """Quantize a snapshot on calibration windows, write the artifact and return the engine's log.

    Args:
        work: the folders, the windows, the device and the arithmetic.
        config: GPTQModel's `QuantizeConfig`.
        options: arguments for the engine's `quantize`.
    """
    import torch
    from gptqmodel import GPTQModel
    from safetensors.torch import load_file

    from tasks.model import stored_types, tensors

    gc.freeze()  # else the engine's collection after each layer scans every imported object: half a second
    layers, progress = tensors.layer_count(work.source), work.progress
    progress("layer", 0, layers)
    model = GPTQModel.load(str(work.source), config, device=work.device, dtype=getattr(torch, work.arithmetic))
    model.layer_callback = _LayerProgress(progress, layers)
    windows = load_file(work.windows)["input_ids"].long()
    batch = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in windows]
    model.quantize(batch, batch_size=1, **options)
    model.save(str(work.out))
    scrub(work.out)
    stored_types.keep(work.source, work.out)
    return model.quant_log


class _LayerProgress:
    """Reports the number of packed layers; the engine calls it from several threads, in any order."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def layer_complete(self, *, layer_idx: int, submodule_finalized: bool) -> None:  # noqa: ARG002
        """Count a layer once it is packed."""
        if submodule_finalized:
            self._done += 1
            self._progress("layer", min(self._done, self._total), self._total)


def fallbacks(log: list[dict[str, Any]]) -> dict[str, str]:
    """Return end of a module's name -> why the engine rounded it to nearest: its logged loss is no number."""
    found = {}
    for entry in log:
        try:
            float(entry["loss"])
        except ValueError:
            found[f".{entry['layer']}.{entry['module']}"] = f"rounded to nearest: {entry['loss']}"
    return found


def dynamic(bits: dict[str, int]) -> dict[str, dict[str, int]] | None:
    """Return the engine's rules for exactly these modules; 16 bits leave a module unquantized."""
    if not bits:
        return None
    return {_exactly(name, width): {} if width == 16 else {"bits": width} for name, width in bits.items()}


def _exactly(name: str, width: int) -> str:
    sign = "-" if width == 16 else "+"
    return f"{sign}:^{name.replace('.', chr(92) + '.')}$"


def scrub(out: Path) -> None:
    """Remove output that differs between runs: a random temporary path in the configs, timings in a log."""
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
