"""Takes a finished checkpoint over, byte for byte, and says what each of the model's weights is in it."""

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
    """Copy the files and return one record per weight.

    Args:
        checkpoint: a folder, or a GGUF file.
        files: which of its files.
        model: the snapshot of the model that it is a checkpoint of.
        packing: how it is packed.
        out: an empty folder.
        progress: told how many files are copied.

    Raises:
        TokenizerMismatch: its tokenizer.json makes other ids than the model's.
        ValueError: a matrix of the model is not in it.
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
    """Return one record per weight of the model; what the checkpoint left as it was, it was meant to leave."""
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
    """Return how two tokenizer.json part on the probe, or nothing; files that differ may well tokenize alike."""
    if ours.read_bytes() == theirs.read_bytes():
        return ""
    from tokenizers import Tokenizer

    from tasks.tokenizer.probe import probe_text

    pair = [Tokenizer.from_file(str(path)) for path in (ours, theirs)]
    for tokenizer in pair:  # some engines save the calibration's
        tokenizer.no_truncation()
        tokenizer.no_padding()
    text = probe_text(sorted(token.content for token in pair[0].get_added_tokens_decoder().values()))
    for at in range(0, len(text), _PIECE_CHARS):
        one, other = (tokenizer.encode(text[at : at + _PIECE_CHARS]) for tokenizer in pair)
        if one.ids != other.ids:
            first = next((n for n, ids in enumerate(zip(one.ids, other.ids, strict=False)) if ids[0] != ids[1]), -1)
            return f"{len(one.ids)} ids of the model, {len(other.ids)} of the checkpoint, the first other at {first}"
    return ""
