"""Copies a finished checkpoint byte for byte, and records the type of each of its weights."""

import shutil
from pathlib import Path

from quantmill.errors import TokenizerMismatch
from quantmill.recipe.packing import Packing
from quantmill.records.artifact import QuantizedTensor
from tasks.model import tensors
from tasks.model.gguf import read_blocks
from tasks.sandbox import Progress

_PIECE_CHARS = 4000


def take_over(
    checkpoint: Path,
    files: list[str],
    model: Path,
    packing: Packing,
    out: Path,
    progress: Progress,
) -> list[QuantizedTensor]:
    """Copy a checkpoint's files to `out` and return one record per weight.

    Args:
        checkpoint: the checkpoint's folder, or its GGUF file.
        files: the names of the files to copy.
        model: the snapshot of the model that was quantized.
        packing: the checkpoint's format and scheme.
        out: an empty folder.
        progress: gets the number of copied files.

    Raises:
        TokenizerMismatch: the checkpoint's tokenizer.json gives other ids than the model's.
        ValueError: the checkpoint lacks a matrix of the model.
    """
    for done, name in enumerate(files):
        progress("copy", done, len(files))
        shutil.copyfile(checkpoint if checkpoint.is_file() else checkpoint / name, out / name)
    progress("copy", len(files), len(files))
    if packing.format == "gguf":
        return _of_gguf(out / files[0])
    if words := _difference(model / "tokenizer.json", out / "tokenizer.json"):
        raise TokenizerMismatch(f"the checkpoint tokenizes unlike the model: {words}")
    return account(model, out, packing)


def account(model: Path, checkpoint: Path, packing: Packing) -> list[QuantizedTensor]:
    """Return one record per weight of the model.

    A matrix that the checkpoint did not quantize is no fallback: whoever made the checkpoint meant to leave it.
    """
    meant = frozenset(tensors.linear_names(model))
    made = tensors.account(model, checkpoint, scheme=packing.scheme, left=meant)
    if missing := [tensor.name for tensor in made if tensor.scheme == "unknown"]:
        raise ValueError(f"the checkpoint lacks {missing[0]} of the model ({len(missing)} in all)")
    return made


def _of_gguf(path: Path) -> list[QuantizedTensor]:
    return [
        QuantizedTensor(
            name=tensor.name,
            scheme=tensor.tensor_type.name,
            bits=8 * int(tensor.n_bytes) / int(tensor.n_elements),
            parameters=int(tensor.n_elements),
        )
        for tensor in read_blocks(path).tensors
    ]


def _difference(ours: Path, theirs: Path) -> str:
    """Return how two tokenizer.json files differ on the probe text; empty if they give the same ids.

    Files with different bytes may give the same ids.
    """
    if ours.read_bytes() == theirs.read_bytes():
        return ""
    from tokenizers import Tokenizer

    from tasks.tokenizer.probe import probe_text

    pair = [Tokenizer.from_file(str(path)) for path in (ours, theirs)]
    for tokenizer in pair:  # some engines save the truncation and padding of the calibration
        tokenizer.no_truncation()
        tokenizer.no_padding()
    text = probe_text(sorted(token.content for token in pair[0].get_added_tokens_decoder().values()))
    for at in range(0, len(text), _PIECE_CHARS):
        one, other = (tokenizer.encode(text[at : at + _PIECE_CHARS]) for tokenizer in pair)
        if one.ids != other.ids:
            first = next((n for n, ids in enumerate(zip(one.ids, other.ids, strict=False)) if ids[0] != ids[1]), -1)
            return f"{len(one.ids)} ids of the model, {len(other.ids)} of the checkpoint, first difference at {first}"
    return ""
