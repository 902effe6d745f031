"""Checks that a folder's tokenizer and a GGUF's make the same ids of the same text, and that they chat alike.

Two runtimes read one model through two tokenizers, and nothing fails when these differ: the figures are
merely of other text. So a probe of about 200 kB is tokenized by both, id for id, for a downloaded GGUF
(folder: dequantized) and for every GGUF that is made here (folder: its source).

The folder's side is `AutoTokenizer`, not `tokenizers` on tokenizer.json: it is what consumers, calibration
and llama.cpp's converter get, and for some classes it builds another pre-tokenizer than the file states.
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
    """Return the metadata that llama.cpp makes its tokenizer and chat template of: field -> its bytes."""
    fields = read_blocks(gguf).fields.items()
    return {name: b"".join(map(bytes, field.parts)) for name, field in fields if name.startswith("tokenizer.")}


@dataclass(frozen=True)
class Difference:
    """How two tokenizations of the probe part: the ids on each side, how many differ, the first of them."""

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
    """Return how the folder's tokenizer differs from llama.cpp's on the probe, or None: nothing that counts.

    The last piece also compares the ids that each puts around a text by itself (BOS, EOS). Where the folder's tokenizer
    composes accents (Unicode's NFC) first, the probe is composed text.
    """
    return examine(folder, gguf)[0]


def examine(folder: Path, gguf: Path) -> tuple[Difference | None, int]:
    """Return what `compare` does, and how many ids differ that count as a mark: those of runs that are cut in another way.

    Of a sentencepiece vocabulary, ids that spell the same text may differ where the sentencepiece library sides with llama.cpp
    (`tokenizer.model` is in the folder), else where a run of one character is cut in other places: merges of equal score
    have no order there, and tokenizer.json gives them one.
    """
    tokenizer = _tokenizer(folder)
    vocabulary = _vocabulary(gguf)
    added = sorted(tokenizer.get_added_vocab().items(), key=lambda item: item[1])
    rows = _rows(folder)  # Gemma 3's text models have no row for the token of images, which their tokenizer knows
    text = probe_text([token for token, number in added if number < rows])
    if type(tokenizer.backend_tokenizer.normalizer).__name__ == "NFC":  # as Qwen's; llama.cpp never composes
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
    """Return how many tokens the model of the folder has a row for; no limit where it says none."""
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
    """Give tokenizer.json the pre-tokenizer that the GGUF names; return what was done, None if nothing."""
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
    """Give the tokenizer.json of a sentencepiece vocabulary llama.cpp's rule for blanks, as Llama 2's own has it.

    transformers writes one that puts no blank before a text that begins with one, and none behind a special token.
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
    """Make the folder tokenize as the GGUF does; return what was repaired, None if it already did.

    Only for a folder of our own making. Where the folder is a source and the GGUF is ours, `compare` judges.

    Raises:
        TokenizerMismatch: they differ and no known repair makes them equal.
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
    """Fill `out` with a GGUF's tokenizer and chat template that do as llama.cpp's do; return what was repaired.

    Its weights are not read, which is most of the work of taking in a whole model.

    Raises:
        SourceError: transformers does not know this kind of tokenizer.
        TokenizerMismatch: it cannot be made to agree.
    """
    of_gguf.save(gguf, out, context_length)
    return make_agree(out, gguf)


def make_agree(folder: Path, gguf: Path) -> str | None:
    """Make a folder of our own tokenize and chat as the GGUF does; return what was repaired.

    Raises:
        TokenizerMismatch: they differ and no known repair makes them equal.
    """
    repaired = check_or_repair(folder, gguf)
    if difference := compare_chat_template(folder, gguf):
        raise TokenizerMismatch(difference)
    return repaired


def compare_chat_template(folder: Path, gguf: Path) -> str | None:
    """Return in one line how the folder's chat templates render unlike the GGUF's, or None."""
    return chat_check.difference(_tokenizer(folder), _vocabulary(gguf))


def _tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _vocabulary(gguf: Path) -> "Llama":
    from llama_cpp import Llama

    return Llama(model_path=str(gguf), vocab_only=True, verbose=False)
