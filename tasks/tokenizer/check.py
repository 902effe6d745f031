"""Checks that a folder and a GGUF file tokenize text to the same ids and render chats identically.

Two runtimes read one model through two tokenizers. If the tokenizers differ nothing fails, but the figures are of
different text. So both tokenize a probe of about 200 kB and are compared id by id: for a downloaded GGUF with its
dequantized folder, and for every GGUF that is made here with its source folder.

The folder's tokenizer is `AutoTokenizer`, not `tokenizers` with tokenizer.json: consumers, calibration and llama.cpp's
converter use `AutoTokenizer`, which for some classes builds another pre-tokenizer than the file states.
"""

import difflib
import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantmill.errors import TokenizerMismatch
from tasks.model.gguf import read_blocks
from tasks.tokenizer import chat_check, of_gguf, token_runs
from tasks.tokenizer.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from tasks.tokenizer.probe import probe_text

if TYPE_CHECKING:
    from llama_cpp import Llama
    from transformers import PreTrainedTokenizerBase

_PIECE_CHARS = 4000


def read_tokenizer(gguf: Path) -> dict[str, bytes]:
    """Return the metadata from which llama.cpp makes tokenizer and chat template: field -> bytes."""
    fields = read_blocks(gguf).fields.items()
    return {name: b"".join(map(bytes, field.parts)) for name, field in fields if name.startswith("tokenizer.")}


@dataclass(frozen=True)
class Difference:
    """How two tokenizations of the probe differ: ids on each side, differing ids, the first of them."""

    folder_ids: int
    gguf_ids: int
    differing_ids: int
    first_id: int
    text: str

    def __str__(self) -> str:
        return (
            f"{self.folder_ids} ids from the folder, {self.gguf_ids} from llama.cpp, "
            f"{self.differing_ids} differ, the first at {self.first_id}, in {self.text!r}"
        )


def compare(folder: Path, gguf: Path) -> Difference | None:
    """Return how the folder's tokenizer differs from llama.cpp's on the probe; None: no real difference.

    The last piece of the probe also compares the special tokens that each tokenizer adds to a text (BOS, EOS). If the
    folder's tokenizer normalizes text to Unicode's NFC, the probe is in NFC.
    """
    return examine(folder, gguf)[0]


def examine(folder: Path, gguf: Path) -> tuple[Difference | None, int]:
    """Return the result of `compare`, and the number of ids that differ but only lead to a mark.

    With a sentencepiece vocabulary, ids that spell the same text may differ: without a mark if the sentencepiece library
    agrees with llama.cpp (the folder needs `tokenizer.model`), with a mark if only runs of one character are split at other
    positions. In sentencepiece, merges of equal score have no order; tokenizer.json gives them an order.
    """
    tokenizer = _tokenizer(folder)
    vocabulary = _vocabulary(gguf)
    added = sorted(tokenizer.get_added_vocab().items(), key=lambda item: item[1])
    rows = _rows(folder)  # Gemma 3's text models have no embedding for the image token, which their tokenizer knows
    text = probe_text([token for token, number in added if number < rows])
    if type(tokenizer.backend_tokenizer.normalizer).__name__ == "NFC":  # as in Qwen; llama.cpp never composes accents
        text = unicodedata.normalize("NFC", text)
    leniency = token_runs.Leniency.of(folder, vocabulary, dict(added))
    pieces = [(text[at : at + _PIECE_CHARS], False) for at in range(0, len(text), _PIECE_CHARS)]
    ours_total = theirs_total = differing = recut = 0
    first, context = -1, ""
    for piece, with_special in [*pieces, ("Hello, 2024 world", True)]:
        ours = tokenizer(piece, add_special_tokens=with_special, verbose=False)["input_ids"]
        theirs = vocabulary.tokenize(piece.encode(), add_bos=with_special, special=True)
        if (
            ours != theirs
            and leniency
            and not with_special
            and (cut := leniency.recut(piece, ours, theirs)) is not None
        ):
            recut += cut
        elif ours != theirs:
            at = _first_difference(ours, theirs)
            if first < 0:
                first, context = ours_total + at, str(tokenizer.decode(ours[max(at - 4, 0) : at + 6]))
            differing += _differing(ours[at:], theirs[at:])
        ours_total += len(ours)
        theirs_total += len(theirs)
    return Difference(ours_total, theirs_total, differing, first, context) if first >= 0 else None, recut


def _rows(folder: Path) -> float:
    """Return the number of rows of the model's embedding; infinity if the config does not state it."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return float(config.get("vocab_size") or config.get("text_config", {}).get("vocab_size") or "inf")


def _first_difference(ours: Sequence[object], theirs: Sequence[object]) -> int:
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(ours), len(theirs)))


def _differing(ours: list[int], theirs: list[int]) -> int:
    blocks = difflib.SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks()
    return max(len(ours), len(theirs)) - sum(block.size for block in blocks)


def repair(folder: Path, gguf: Path) -> str | None:
    """Set tokenizer.json's pre-tokenizer as the GGUF names it; return a note, or None if unchanged."""
    said = _vocabulary(gguf).metadata
    name, path = said.get("tokenizer.ggml.pre", ""), folder / "tokenizer.json"
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    if said.get("tokenizer.ggml.model") == "llama":
        return _repair_blanks(path, content, said.get("tokenizer.ggml.add_space_prefix") != "false")
    if name not in PRE_TOKENIZERS:
        return None
    known = PRE_TOKENIZERS[name]
    model = content["model"]
    present = PreTokenizer(known.words, content.get("pre_tokenizer"), model.get("ignore_merges", False))
    if present == known:
        return None
    content["pre_tokenizer"] = known.rule
    model["ignore_merges"] = known.ignore_merges
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
    return f"pre-tokenizer set to llama.cpp's {name}: {known.words}"


def _repair_blanks(path: Path, content: dict[str, Any], prefix: bool) -> str | None:
    """Set llama.cpp's rule for blanks, which is also Llama 2's own, in a sentencepiece tokenizer.json.

    The rule that transformers writes adds no blank before a text that begins with a blank, nor after a special token.
    """
    rule = {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                *([{"type": "Prepend", "prepend": "▁"}] if prefix else []),
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
    }
    if content == content | rule:
        return None
    path.write_text(json.dumps(content | rule, indent=2, ensure_ascii=False), encoding="utf-8")
    where = "before every text and behind every special token" if prefix else "nowhere"
    return f"blanks as llama.cpp has them: one is put {where}"


def check_or_repair(folder: Path, gguf: Path) -> str | None:
    """Make the folder tokenize as the GGUF does; return a note on the repair, or None if none was needed.

    Use this only for a folder that was made here. For a GGUF that was made from a source folder, use `compare`.

    Raises:
        TokenizerMismatch: the tokenizers differ and no known repair makes them equal.
    """
    before = compare(folder, gguf)
    if before is None:
        return None
    note = repair(folder, gguf)
    after = compare(folder, gguf) if note else before
    if after is not None:
        raise TokenizerMismatch(f"{gguf.name}: {after}{f' (after: {note})' if note else ''}")
    return f"{note} ({before.differing_ids} of {before.gguf_ids} ids differed)"


def save_checked(gguf: Path, out: Path, context_length: int | None = None) -> str | None:
    """Write a GGUF's tokenizer and chat template, made to agree with llama.cpp's; return a repair note.

    The GGUF's weights are not read, which saves most of the work of dequantizing the model.

    Raises:
        SourceError: transformers does not know this kind of tokenizer.
        TokenizerMismatch: the tokenizer cannot be made to agree.
    """
    of_gguf.save(gguf, out, context_length)
    return make_agree(out, gguf)


def make_agree(folder: Path, gguf: Path) -> str | None:
    """Make a folder that was made here tokenize and render chats as the GGUF does; return a repair note.

    Raises:
        TokenizerMismatch: tokenizers or chat templates differ and no known repair makes them equal.
    """
    repaired = check_or_repair(folder, gguf)
    if difference := compare_chat_template(folder, gguf):
        raise TokenizerMismatch(difference)
    return repaired


def compare_chat_template(folder: Path, gguf: Path) -> str | None:
    """Return in one line how the renderings of the folder's and the GGUF's chat templates differ, or None."""
    return chat_check.difference(_tokenizer(folder), _vocabulary(gguf))


def _tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _vocabulary(gguf: Path) -> "Llama":
    from llama_cpp import Llama

    return Llama(model_path=str(gguf), vocab_only=True, verbose=False)
