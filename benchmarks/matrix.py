"""Runs every architecture through every method and width: `make matrix`.

A part: `python -m benchmarks.matrix --only gpt2,opt --methods hqq`. For each cell the checks before any work run first. Then the
artifact is made in one process and opened in another, its logits are compared with those of the bf16 weights, and its weights
are counted. The cells are kept, so that an interrupted run continues; `--force` makes them again. A run of all architectures
and methods writes docs/methods.md at its end.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import architectures, matrix_page, matrix_work
from benchmarks.architectures import ARCHITECTURES
from quantmill.errors import QuantmillError
from quantmill.recipe.texts import TextSource, TokenRequest
from quantmill.settings import load_settings
from tasks import quantize
from tasks.text import calibrate
from tasks.text import sources as text_sources

PAGE = Path(__file__).resolve().parent.parent / "docs" / "methods.md"
_TIMEOUT_S = 900
_CALIBRATION = TokenRequest(source="builtin", samples=8, sequence_length=128, seed=0)


def fill(name: str, method: str, place: Path, force: bool) -> dict[str, Any]:
    """Return the cells of one architecture and method: column -> result."""
    kept, model = place / "cells" / f"{name}-{method}.json", place / "models" / name
    kept.parent.mkdir(parents=True, exist_ok=True)
    cells = refusals(method, model)
    if not cells and kept.is_file() and not force:
        found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        if not any(cell["status"] == "refused" for cell in found.values()):
            return found
    cells = cells or _try(model, method, place / "scratch" / f"{name}-{method}")
    kept.write_text(json.dumps(cells, indent=1), encoding="utf-8")
    return cells


def _try(model: Path, method: str, scratch: Path) -> dict[str, Any]:
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    cells = _step("quantize", model, method, scratch)
    for column, opened in _step("check", model, method, scratch).items():
        cells[column] = cells[column] | opened if cells[column]["status"] == "made" else cells[column]
    shutil.rmtree(scratch)
    return cells


def refusals(method: str, model: Path) -> dict[str, Any]:
    """Return the columns that the checks before any work refuse, each with the reason."""
    found = {}
    for column, spec in matrix_work.specs_of(method):
        try:
            quantize.require([spec], model)
        except QuantmillError as error:
            reason = str(error).removeprefix(f"variants: {spec.name}: ")
            found[column] = {"status": "refused", "reason": reason}
    return found


def _step(step: str, model: Path, method: str, scratch: Path) -> dict[str, Any]:
    """Run a step in a process of its own and return its cells; if the process dies, all cells have failed."""
    answer, log = scratch / f"{step}.json", scratch.with_name(f"{scratch.name}-{step}.log")
    command = [sys.executable, "-m", "benchmarks.matrix_work", step, model, method, scratch, answer]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "GPTQMODEL_CPU_WORKERS": "2"}
    began = time.monotonic()
    with log.open("w") as output:
        try:
            code = subprocess.run(
                [*map(str, command)], env=environment, stdout=output, stderr=output, timeout=_TIMEOUT_S, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            code = 124
    print(f"{model.name} {method} {step}: {time.monotonic() - began:.0f} s", flush=True)
    if answer.is_file():
        found: dict[str, Any] = json.loads(answer.read_text())
        return found
    words = f"the process that {step}s ended with {code}"
    return {column: {"status": "failed", "reason": words} for column, _ in matrix_work.specs_of(method)}


def _prepare(place: Path, names: list[str]) -> None:
    """Make the models, the calibration windows, and the tokens whose logits are compared."""
    import numpy as np
    import torch
    from safetensors.numpy import save_file

    torch.set_num_threads(1)
    tokenizer = architectures.save_tokenizer(place / "tokenizer")
    for name in names:
        architectures.build(name, place / "models" / name, tokenizer)
    scratch = place / "scratch"
    scratch.mkdir(exist_ok=True)
    documents = text_sources.take(TextSource(source="builtin"), "calibration", 1, "calibration")
    text = "\n\n".join(document.text for document in documents)
    windows = calibrate.cut_windows(text, tokenizer / "tokenizer.json", _CALIBRATION, "calibration")
    save_file({"input_ids": np.array(windows, np.int32)}, scratch / "calibration.safetensors")
    np.save(scratch / "ids.npy", np.array(windows[0][: matrix_work.TOKENS], np.int32))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="architectures, with commas between")
    parser.add_argument("--methods", default="", help="methods, with commas between")
    parser.add_argument("--force", action="store_true", help="make the cells again")
    parser.add_argument("--place", type=Path, help="where models and cells go; default: QUANTMILL_HOME/matrix")
    options = parser.parse_args()
    place = (options.place or load_settings().home / "matrix").absolute()
    names = options.only.split(",") if options.only else list(ARCHITECTURES)
    methods = options.methods.split(",") if options.methods else list(matrix_page.TRIED)
    _prepare(place, names)
    for name in names:
        if options.force or not (place / "scratch" / f"{name}.npy").is_file():
            (made,) = fill(name, "baseline", place, True).values()
            if "rms" not in made:
                raise SystemExit(f"{name}: the bf16 weights themselves do not work here: {made['reason']}")
        for method in methods:
            cells = fill(name, method, place, options.force)
            for column, cell in cells.items():
                print(f"  {name} {method} {column}: {' '.join(matrix_page.cell_words(cell))}", flush=True)
    if not options.only and not options.methods:
        PAGE.write_text(matrix_page.page(place / "cells"), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
