"""Makes tokenizer.json of a sentencepiece model, for folders that have only `tokenizer.model`.

transformers converts the model; sentencepiece, the library that the model was trained with, says whether the ids are right.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quantmill.errors import SourceError
from tasks.tokenizer.probe import probe_text
from tasks.tokenizer.sentencepiece_model import FILE
from tasks.tokenizer.token_runs import in_runs

NAME = "tokenizer.json"
_PIECE_CHARS = 4000


def complete(folder: Path) -> str:
    """Write tokenizer.json where a folder has only tokenizer.model; return a note, empty: it was there.

    Raises:
        SourceError: transformers cannot convert the model, or what it makes gives other ids than sentencepiece.
    """
    if (folder / NAME).exists():
        return ""
    import transformers
    from sentencepiece import SentencePieceProcessor

    try:
        referee = SentencePieceProcessor(model_file=str(folder / FILE))
    except (OSError, RuntimeError) as error:
        raise SourceError(f"{FILE}: sentencepiece cannot read it: {' '.join(str(error).split())[:120]}") from error
    differences = []
    for made in _conversions(folder):
        if not (difference := _difference(referee, made)):
            made.backend_tokenizer.save(str(folder / NAME))
            return f"{NAME} made from {FILE} by transformers {transformers.__version__}"
        differences.append(difference)
    raise SourceError(f"{FILE}: transformers makes a tokenizer of it that differs from sentencepiece: {differences[0]}")


def _conversions(folder: Path) -> Iterator[Any]:
    """Yield what transformers makes of the model: of the class that the folder names, then as Llama 2's."""
    from transformers import AutoTokenizer, LlamaTokenizer

    for kind in (AutoTokenizer, LlamaTokenizer):
        try:
            yield kind.from_pretrained(folder, local_files_only=True)
        except Exception as error:
            words = " ".join(str(error).split())[:160]
            raise SourceError(f"{FILE}: transformers cannot convert it: {words}") from error


def _difference(referee: Any, made: Any) -> str:
    """Return where the tokens of the two first differ on the probe, or an empty text.

    Two differences do not count: where a run of one character is cut (its pieces have equal scores, and tokenizer.json must order
    them), and a blank that begins a text, to which transformers' class for Llama adds no second one.
    """
    text = probe_text()
    for at in range(0, len(text), _PIECE_CHARS):
        piece = text[at : at + _PIECE_CHARS].lstrip()
        right = referee.encode(piece)
        found = made.backend_tokenizer.encode(piece, add_special_tokens=False).ids
        if right != found and not _only_runs(referee, right, found):
            first = next((n for n, pair in enumerate(zip(right, found, strict=False)) if pair[0] != pair[1]), -1)
            return f"{len(right)} ids and {len(found)}, the first other at {first}, in {piece[:30]!r}"
    return ""


def _only_runs(referee: Any, right: list[int], found: list[int]) -> bool:
    """Return whether two lists of ids spell the same text and cut only runs of one character differently."""
    spelled = [[referee.id_to_piece(number).encode() for number in ids] for ids in (right, found)]
    one, two = (b"".join(pieces) for pieces in spelled)
    cuts = [set(itertools.accumulate(map(len, pieces))) for pieces in spelled]
    return one == two and cuts[0] ^ cuts[1] <= in_runs(one)
