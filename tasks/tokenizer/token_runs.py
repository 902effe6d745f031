"""Recognises harmless differences between two tokenizations with a sentencepiece vocabulary.

In Llama 2's and Mistral's vocabularies the pieces for runs of blanks have equal scores. The sentencepiece library and
llama.cpp merge the leftmost pair first; tokenizer.json gives the merges an order. So 20 blanks become 16 + 4 in one and
14 + 6 in the other, and both decode to the same text.
"""

import ctypes
import difflib
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.tokenizer.sentencepiece_model import FILE, Referee

if TYPE_CHECKING:
    from llama_cpp import Llama
    from tokenizers import Tokenizer


@dataclass
class Leniency:
    """Decides which differences are harmless, with a GGUF's vocabulary and the folder's tokenizer files."""

    vocabulary: "Llama"
    referee: Referee | None
    file: "Tokenizer | None"
    _spelled: dict[int, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path, vocabulary: "Llama", special: dict[str, int]) -> "Leniency | None":
        """Return the Leniency for a GGUF with a sentencepiece vocabulary; None for any other vocabulary."""
        from tokenizers import Tokenizer

        if vocabulary.metadata.get("tokenizer.ggml.model") != "llama":
            return None
        path, file = folder / FILE, folder / "tokenizer.json"
        referee = Referee(path.read_bytes(), special) if path.is_file() else None
        return cls(vocabulary, referee, Tokenizer.from_file(str(file)) if file.is_file() else None)

    def recut(self, text: str, ours: list[int], theirs: list[int]) -> int | None:
        """Return the number of our ids that differ harmlessly; None if the difference is a mismatch.

        transformers 5 opens Llama's tokenizer.json with its own rule for a blank at the beginning of a text. The difference
        is harmless too if tokenizer.json itself agrees with llama.cpp and only blanks differ.
        """
        if (cut := self._confined(text, ours, theirs)) is not None or self.file is None:
            return cut
        said = self.file.encode(text, add_special_tokens=False).ids
        if self._letters(ours) != self._letters(theirs) or self._confined(text, said, theirs) is None:
            return None
        blocks = difflib.SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks()
        return max(len(ours), len(theirs)) - sum(block.size for block in blocks)

    def _confined(self, text: str, ours: list[int], theirs: list[int]) -> int | None:
        if ours == theirs:
            return 0
        if self.referee and self._text(ours) == self._text(theirs) and self.referee.ids(text) == theirs:
            return 0
        return self._recut(ours, theirs)

    def _letters(self, ids: list[int]) -> bytes:
        return self._text(ids).replace(b" ", b"")

    def _recut(self, ours: list[int], theirs: list[int]) -> int | None:
        """Return the number of our ids that are not in `theirs`; None unless only runs are split differently."""
        text = self._text(ours)
        if text != self._text(theirs):
            return None
        one, two = self._spans(ours), self._spans(theirs)
        if any(two[span] != token for span, token in one.items() if span in two):
            return None
        cuts = {end for _, end in one} ^ {end for _, end in two}
        return len(set(one) - set(two)) if cuts <= in_runs(text) else None

    def _spans(self, ids: list[int]) -> dict[tuple[int, int], int]:
        """Return (offset of the first byte, offset after the last byte) -> id, for each token."""
        ends = list(itertools.accumulate((len(self._of(token)) for token in ids), initial=0))
        return dict(zip(itertools.pairwise(ends), ids, strict=True))

    def _text(self, ids: list[int]) -> bytes:
        return b"".join(map(self._of, ids))

    def _of(self, token: int) -> bytes:
        """Return the text of a token, also of a control token."""
        import llama_cpp

        if token not in self._spelled:
            entries = llama_cpp.llama_model_get_vocab(self.vocabulary.model)
            room, length = ctypes.create_string_buffer(1024), 0
            if token < self.vocabulary.n_vocab():
                length = llama_cpp.llama_token_to_piece(entries, token, room, len(room), 0, True)
            self._spelled[token] = room.raw[: max(length, 0)] or f"<{token}>".encode()  # an unused token has no text
        return self._spelled[token]


def in_runs(text: bytes) -> set[int]:
    """Return the byte offsets in runs of one character, including the offsets before and after a run."""
    places, at = set(), 0
    for _, run in itertools.groupby(text.decode(errors="surrogateescape")):
        sizes = [len(character.encode(errors="surrogateescape")) for character in run]
        offsets = itertools.accumulate(sizes, initial=at)
        places |= set(offsets) if len(sizes) > 1 else set()
        at += sum(sizes)
    return places
