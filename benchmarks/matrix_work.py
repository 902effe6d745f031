"""One process of the matrix: makes all widths of a method on one model, or opens the artifacts.

`python -m benchmarks.matrix_work` runs the functions that the line's own jobs run, so a recipe would get the same results.
"""

import argparse
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from quantmill.recipe.methods import METHODS
from quantmill.recipe.recipe import VariantSpec
from quantmill.recipe.variant_request import VariantRequest
from quantmill.records import planning
from tasks import metrics
from tasks.convert import job as convert_job
from tasks.convert.job import Convert
from tasks.model import architecture, tensors
from tasks.quantize import job as quantize_job
from tasks.quantize.job import Make

TOKENS = 64
_MATRIX = 1 << 14  # a tensor of a GGUF with fewer weights is a norm, a bias or a router
_ENOUGH = {8: 0.15, 6: 0.25, 5: 0.35, 4: 0.6, 3: 1.0, 2: 2.0, 1: 3.0}  # rms ratio; logits of another model: 1.4
_EXACT = 0.1  # 16 bits and more: where llama.cpp computes in bf16, a router may take another expert for a token or two
_OPTIONS: dict[str, dict[str, Any]] = {"autoround": {"iterations": 1}}


def specs_of(method: str) -> Iterator[tuple[str, VariantSpec]]:
    """Yield (column, spec) for every width or type of a method that needs no importance matrix."""
    row = METHODS[method]
    kinds = list(row.widths) if row.types else []
    asked: dict[str, Any] = {"type": kinds} if kinds else {"bits": list(row.bits)}
    for spec in VariantRequest.model_validate({"method": method, **asked, **_OPTIONS.get(method, {})}).expand():
        yield str(spec.type or spec.bits), spec


def quantize(model: Path, method: str, place: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Make every width of `method` under `place`; yield (column, cell)."""
    needed = {"conversion": _convert(model, place)} if METHODS[method].needs else {}
    for column, spec in specs_of(method):
        told = Make(
            spec=spec,
            source=model,
            needed=needed,
            calibration=place.parent / "calibration.safetensors" if spec.row.calibrated else None,
            device="cpu",
            arithmetic="bfloat16",
        )
        try:
            made = quantize_job.run(told, _out(place / column), _silent)
        except Exception as error:  # noqa: BLE001 (whatever an engine raises becomes the cell)
            traceback.print_exc()
            yield column, {"status": "failed", "reason": _words(error)}
            continue
        yield column, {"status": "made"} | _account(spec, made["tensors"], model)


def check(model: Path, method: str, place: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Open every width of `method` as a consumer and as a measurement would; yield (column, cell)."""
    ids = np.load(place.parent / "ids.npy")
    for column, spec in specs_of(method):
        folder = place / column / "out"
        if not (folder / "config.json").is_file():
            continue
        try:
            logits = _read(folder, spec, ids, model)
        except Exception as error:  # noqa: BLE001
            traceback.print_exc()
            yield column, {"status": "failed", "reason": f"loading: {_words(error)}"}
            continue
        yield column, _compare(logits, place.parent / f"{model.name}.npy", spec)


def _read(folder: Path, spec: VariantSpec, ids: Any, source: Path) -> Any:
    from tasks.runtimes.protocol import Machine

    if missing := [
        name for name in ("tokenizer.json", "config.json", "tokenizer_config.json") if not (folder / name).exists()
    ]:
        raise ValueError(f"the artifact lacks {missing[0]}")
    experts = architecture.of_config(source).experts
    module = importlib.import_module(f"tasks.runtimes.{spec.runtime(experts)}")
    machine = Machine(device="cpu", threads=1, hardware="")
    consumer = module.load(folder, machine, context=2 * TOKENS, scoring=False)
    consumer.step(consumer.start(ids[:8]))
    consumer.close()
    model = module.load(folder, machine, context=2 * TOKENS, scoring=True)
    if spec.method == "baseline":
        return _traced(model, ids)
    return model.logits(ids)


def _traced(model: Any, ids: Any) -> Any:
    """Return the baseline's logits; raise TraceMismatch if the trace gives other logits."""
    from tasks.evaluate import trace

    (inputs, logits), *_ = model.traced_pieces(ids)
    again = model.reader(model.head())(inputs)
    apart = metrics.score(logits[:-1], again[:-1], ids[1:]).kl.mean()
    trace.require_same(float(apart), model.compute_dtype)
    return logits.numpy()


def _compare(logits: Any, reference: Path, spec: VariantSpec) -> dict[str, Any]:
    if not np.isfinite(logits).all():
        return {"status": "failed", "reason": "a logit is NaN or infinite"}
    if spec.method == "baseline":
        np.save(reference, logits)
        return {"rms": 0.0}
    true = np.load(reference)
    ratio = float(np.sqrt(((logits - true) ** 2).mean() / (true**2).mean()))
    if ratio > _ENOUGH.get(spec.bits, _EXACT):
        return {"status": "failed", "reason": f"its logits differ by {ratio:.2f} of their own size", "rms": ratio}
    return {"rms": ratio}


def _account(spec: VariantSpec, made: list[dict[str, Any]], model: Path) -> dict[str, Any]:
    """Return the share of the decoder's weights that were quantized as requested, and their bits."""
    if spec.row.format == "gguf":
        matrices = [t for t in made if t["name"].startswith("blk.") and t["parameters"] >= _MATRIX]
    else:
        names = {f"{name}.weight" for name in tensors.linear_names(model)}
        matrices = [t for t in made if t["name"] in names]
        assert len(matrices) == len(names), "every matrix is accounted for"
    done = [t for t in matrices if not t["fallback"]]
    weights = sum(t["parameters"] for t in done)
    bits = sum(t["bits"] * t["parameters"] for t in done) / max(weights, 1)
    wanted = 16.0 if spec.method == "baseline" else planning.stored_bits(spec)
    reasons = sorted({t["fallback"] for t in matrices if t["fallback"]})
    mixed = str(spec.type).endswith(("_M", "_L")) or spec.type == "Q2_K"  # some tensors wider, by llama.cpp's own plan
    off = not mixed and abs(bits - wanted) > 0.1 * wanted
    return {
        "share": weights / max(sum(t["parameters"] for t in matrices), 1),
        "bits": round(bits, 3),
        "why": "; ".join(reasons),
        "off": f"{bits:.2f} bits a weight in place of {wanted:.2f}" if off and done else "",
    }


def _convert(model: Path, place: Path) -> Path:
    out = _out(place / "conversion")
    convert_job.run(Convert(source=model, name=model.name), out, _silent)
    return out


def _out(folder: Path) -> Path:
    (folder / "out").mkdir(parents=True)
    return folder / "out"


def _silent(step: str, done: int, total: int) -> None:
    pass


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:240]}"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("step", choices=("quantize", "check"))
    parser.add_argument("model", type=Path)
    parser.add_argument("method")
    parser.add_argument("place", type=Path)
    parser.add_argument("answer", type=Path)
    options = parser.parse_args()
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    import torch

    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    try:
        for column, cell in {"quantize": quantize, "check": check}[options.step](
            options.model, options.method, options.place
        ):
            found[column] = cell
            print(f"{time.strftime('%X')} {options.model.name} {options.method} {column}: {cell}", flush=True)
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        left = {column: {"status": "failed", "reason": _words(error)} for column, _ in specs_of(options.method)}
        found = left | found
    options.answer.write_text(json.dumps(found, indent=1))
    sys.stdout.flush()
    os._exit(0)  # engines leave threads and exit hooks that hang after the work is done


if __name__ == "__main__":
    main()
