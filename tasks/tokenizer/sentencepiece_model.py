"""Makes sentencepiece models (`tokenizer.model`) from tokenizer.json or GGUF, and tokenizes with them.

Llama 2, Mistral and Gemma were trained with sentencepiece (arXiv:1808.06226). It merges the pair whose result has the
highest score, and of equal scores the leftmost pair. llama.cpp reads these scores; tokenizer.json lists the merges in
order instead.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from quantmill.errors import SourceError

FILE = "tokenizer.model"
_BLANK = "▁"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_LEAST = -1e6  # lower than the score of every merge
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # the numbers of sentencepiece_model.proto and GGUF


def is_family(content: dict[str, Any]) -> bool:
    """Return whether a tokenizer.json describes a sentencepiece BPE model with a piece for each byte."""
    model = content.get("model") or {}
    vocabulary = model.get("vocab")
    if not (model.get("type") == "BPE" and model.get("byte_fallback") and isinstance(vocabulary, dict)):
        return False
    return "<0x0A>" in vocabulary and _prefix(content) is not None


def of_tokenizer_json(path: Path) -> bytes:
    """Return the bytes of the sentencepiece model that a tokenizer.json describes (see `is_family`).

    A piece's score is minus the rank of its first merge. So pieces with equal scores in the original model (runs of
    blanks) have different scores here.

    Raises:
        SourceError: an id has no piece.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    model = content["model"]
    pieces: dict[int, str] = {number: piece for piece, number in model["vocab"].items()}
    scores: dict[str, float] = {}
    for pair in model["merges"]:
        scores.setdefault("".join(pair.split(" ", 1) if isinstance(pair, str) else pair), -float(len(scores) + 1))
    added = {token["id"]: token for token in content.get("added_tokens", ())}
    pieces |= {number: token["content"] for number, token in added.items()}
    if missing := sorted(set(range(max(pieces) + 1)) - set(pieces)):
        raise SourceError(f"model: {path.name}: id {missing[0]} has no token ({len(missing)} in all)")
    rows = []
    for number in range(len(pieces)):
        piece = pieces[number]
        kind = NORMAL if piece in scores or len(piece) == 1 else UNUSED
        if _BYTE.fullmatch(piece):
            kind = BYTE
        elif number in added:
            kind = CONTROL if added[number]["special"] else USER_DEFINED
        if piece == (model.get("unk_token") or "<unk>"):
            kind = UNKNOWN
        rows.append((piece, scores.get(piece, _LEAST if kind == NORMAL else 0.0), kind))
    return _serialize(rows, prefix=bool(_prefix(content)))


def of_gguf(fields: dict[str, Any]) -> bytes | None:
    """Return the bytes of the sentencepiece model in a GGUF's metadata; None for any other vocabulary."""
    family = fields.get("tokenizer.ggml.model")
    if family is None or family.contents() != "llama":
        return None
    found = [fields.get(f"tokenizer.ggml.{name}") for name in ("tokens", "scores", "token_type")]
    tokens, scores, kinds = (field.contents() if field is not None else None for field in found)
    if not (tokens and scores and kinds):
        return None
    prefix = fields.get("tokenizer.ggml.add_space_prefix")
    return _serialize(zip(tokens, scores, kinds, strict=True), prefix=prefix is None or bool(prefix.contents()))


def _serialize(rows: Iterable[tuple[str, float, int]], *, prefix: bool) -> bytes:
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    seen: set[str] = set()
    for number, (piece, score, kind) in enumerate(rows):
        # sentencepiece refuses empty and repeated pieces
        held = piece if piece and piece not in seen else f"[unused {number}]"
        seen.add(held)
        proto.pieces.add(piece=held, score=score, type=kind if held == piece else UNUSED)
        if kind == UNKNOWN:
            proto.trainer_spec.unk_id, proto.trainer_spec.unk_piece = number, piece
    proto.trainer_spec.model_type = sentencepiece_model_pb2.TrainerSpec.BPE
    proto.trainer_spec.byte_fallback = True
    proto.trainer_spec.vocab_size = len(proto.pieces)
    proto.trainer_spec.bos_id = proto.trainer_spec.eos_id = proto.trainer_spec.pad_id = -1
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = prefix
    proto.normalizer_spec.remove_extra_whitespaces = False
    proto.normalizer_spec.escape_whitespaces = True
    return bytes(proto.SerializeToString(deterministic=True))


def _prefix(content: dict[str, Any]) -> bool | None:
    """Return whether a tokenizer.json puts a blank before a text; None if it has other rules for blanks."""
    normalizer, split = content.get("normalizer"), content.get("pre_tokenizer") or {}
    steps = (normalizer or {}).get("normalizers", [normalizer] if normalizer else [])
    replaces = any(step["type"] == "Replace" and step.get("content") == _BLANK for step in steps)
    others = {step["type"] for step in steps} - {"Replace", "Prepend"}
    if split.get("type") == "Metaspace":
        return None if steps else split.get("prepend_scheme", "always") != "never"
    if others or not replaces or split.get("type") not in (None, "Split"):
        return None
    return any(step["type"] == "Prepend" and step.get("prepend") == _BLANK for step in steps)


class Referee:
    """Tokenizes text with the sentencepiece library, after splitting off the special tokens."""

    def __init__(self, model: bytes, special: dict[str, int]) -> None:
        """Load the bytes of a `tokenizer.model`; `special` is text -> id of tokens matched before the model."""
        from sentencepiece import SentencePieceProcessor

        self._processor = SentencePieceProcessor(model_proto=model)
        self._special = special
        longest = sorted(special, key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(map(re.escape, longest))})") if longest else None

    def ids(self, text: str) -> list[int]:
        """Return the ids of a text, without BOS or EOS."""
        parts = self._split.split(text) if self._split else [text]
        found: list[int] = []
        for part in parts:
            found += [self._special[part]] if part in self._special else self._processor.encode(part) if part else []
        return found


def complete(source: Path, place: Path) -> Path:
    """Return a folder in which llama.cpp's converter finds the whole vocabulary: `source` or `place`.

    The converter reads `tokenizer.model`, and the added tokens from tokenizer_config.json. If a folder with a sentencepiece
    model states these in tokenizer.json only, the empty folder `place` gets links to the files of `source` and the missing
    files with the same content.

    Raises:
        SourceError: an id has no piece.
    """
    path = source / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not is_family(content):
        return source
    settings_path = source / "tokenizer_config.json"
    settings = json.loads(settings_path.read_text(encoding="utf-8")) if settings_path.is_file() else {}
    named = "added_tokens_decoder" in settings or (source / "added_tokens.json").is_file()
    if named and (source / FILE).is_file():
        return source
    for entry in source.iterdir():
        (place / entry.name).symlink_to(entry.resolve())
    if not (source / FILE).is_file():
        (place / FILE).write_bytes(of_tokenizer_json(path))
    if not named:
        unknown = (content["model"].get("unk_token") or "<unk>",)
        added = {str(t["id"]): t for t in content.get("added_tokens", ()) if t["content"] not in unknown}
        settings_path = place / settings_path.name
        settings_path.unlink(missing_ok=True)
        settings_path.write_text(json.dumps(settings | {"added_tokens_decoder": added}), encoding="utf-8")
    return place
