"""Compares a conversion with its source on one text longer than a window or unscaled rotary embedding.

Both sides compute in fp32: transformers runs the folder, llama.cpp an F32 file made from the BF16 conversion without
changing a weight. Settings that llama.cpp's converter dropped show only beyond that length, which evaluation windows
seldom reach.
"""

import gc
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import llama_cpp
import numpy
from tokenizers import Tokenizer

from tasks import metrics
from tasks.builtin_text import builtin_text
from tasks.metrics import Floats, Ints
from tasks.runtimes import Machine, runtime
from tasks.sandbox import Progress

LIMIT_S = 120.0
_COMPARED = 512  # the last positions: those beyond the window or the unscaled embedding
_TRIED = 64  # tokens of the trial that estimates the time for all tokens


def compare(
    source: Path,
    conversion: Path,
    tokens: int,
    scratch: Path,
    threads: int,
    progress: Progress,
) -> dict[str, Any]:
    """Return `mean_kl` over the last positions of a text of `tokens` tokens, or `why` it was not computed.

    Args:
        source: the model's folder.
        conversion: the BF16 GGUF file made from the folder.
        tokens: length of the text.
        scratch: a folder for the F32 file.
        threads: number of threads of both libraries.
        progress: receives the step.
    """
    machine = Machine("cpu", threads, "")
    ids = _text(source, tokens)
    progress("score a longer text", 0, 2)
    model = runtime("transformers").load(source, machine, context=tokens, scoring=True)
    if model.compute_dtype != "float32":
        return {"why": "memory"}
    model.logits(ids[:8])
    started = time.monotonic()
    model.logits(ids[:_TRIED])
    if 2 * (time.monotonic() - started) * tokens / _TRIED > LIMIT_S:
        return {"why": "time"}
    reference = _last(piece.float().cpu().numpy() for piece in model.pieces(ids))
    model.close()
    del model
    gc.collect()
    progress("score a longer text", 1, 2)
    exact = _exact(conversion, scratch)
    other = runtime("llama_cpp").load(exact.parent, machine, context=tokens, scoring=True)
    logits = _last(other.pieces(ids))
    other.close()
    progress("score a longer text", 2, 2)
    targets = ids[-len(reference) :]  # any targets do: only the divergence is used
    return {"mean_kl": float(metrics.score(reference, logits, targets).kl.mean())}


def _text(folder: Path, tokens: int) -> Ints:
    """Return the first tokens of the built-in text, repeated if the text is too short."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    found = tokenizer.encode(builtin_text()[: 8 * tokens]).ids
    return numpy.resize(numpy.array(found, dtype=numpy.int32), tokens)


def _last(pieces: Iterable[Floats]) -> Floats:
    """Return copies of the last `_COMPARED` rows of logits that arrive in pieces."""
    kept: Floats = numpy.empty((0, 0), numpy.float32)
    for piece in pieces:
        rows = piece[-_COMPARED:]
        kept = numpy.concatenate([kept.reshape(-1, rows.shape[1]), rows])[-_COMPARED:]
    return kept


def _exact(conversion: Path, scratch: Path) -> Path:
    """Write the conversion's weights in F32 to a file in `scratch` and return its path."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_ALL_F32
    made = scratch / "model-F32.gguf"
    if code := llama_cpp.llama_model_quantize(str(conversion).encode(), str(made).encode(), params):
        raise RuntimeError(f"llama_model_quantize returned {code} for F32")
    return made
