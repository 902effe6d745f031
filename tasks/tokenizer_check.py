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
from typing import TYPE_CHECKING, Any, cast

from quantmill.errors import TokenizerMismatch
from tasks import chat_templates, dequantize
from tasks.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from tasks.tokenizer_probe import probe_text

if TYPE_CHECKING:
    from llama_cpp import Llama
    from transformers import PreTrainedTokenizerBase

_PIECE_CHARS = 4000
_SYSTEM = {"role": "system", "content": "You answer in one sentence. "}
_TALK = [
    {"role": "user", "content": "What is 12 + 30?"},
    {"role": "assistant", "content": " It is 42.\n"},
    {"role": "user", "content": "And\n\n- why <b>so</b>?  'Tell me', in 你好 & 1,000 words."},
]


def read_tokenizer(gguf: Path) -> dict[str, bytes]:
    """Return the metadata that llama.cpp makes its tokenizer and chat template of: field -> its bytes."""
    from tasks.gguf_reader import BlockReader

    fields = BlockReader(gguf).fields.items()
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
    """Return how the folder's tokenizer differs from llama.cpp's on the probe, or None: every id is the same.

    The last piece also compares the ids that each puts around a text by itself (BOS, EOS). Where the folder's tokenizer
    composes accents (Unicode's NFC) first, the probe is composed text.
    """
    tokenizer = _tokenizer(folder)
    vocabulary = _vocabulary(gguf)
    added = sorted(tokenizer.get_added_vocab().items(), key=lambda item: item[1])
    text = probe_text([token for token, _ in added])
    if type(tokenizer.backend_tokenizer.normalizer).__name__ == "NFC":  # as Qwen's; llama.cpp never composes
        text = unicodedata.normalize("NFC", text)
    pieces = [(text[at : at + _PIECE_CHARS], False) for at in range(0, len(text), _PIECE_CHARS)]
    ours_total = theirs_total = differing = 0
    first, context = -1, ""
    for piece, with_special in [*pieces, ("Hello, 2024 world", True)]:
        ours = tokenizer(piece, add_special_tokens=with_special, verbose=False)["input_ids"]
        theirs = vocabulary.tokenize(piece.encode(), add_bos=with_special, special=True)
        if ours != theirs:
            at = _first_difference(ours, theirs)
            if first < 0:
                first, context = ours_total + at, str(tokenizer.decode(ours[max(at - 4, 0) : at + 6]))
            differing += _differing(ours[at:], theirs[at:])
        ours_total += len(ours)
        theirs_total += len(theirs)
    return Difference(ours_total, theirs_total, differing, first, context) if first >= 0 else None


def _first_difference(ours: Sequence[object], theirs: Sequence[object]) -> int:
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(ours), len(theirs)))


def _differing(ours: list[int], theirs: list[int]) -> int:
    blocks = difflib.SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks()
    return max(len(ours), len(theirs)) - sum(block.size for block in blocks)


def repair(folder: Path, gguf: Path) -> str | None:
    """Give tokenizer.json the pre-tokenizer that the GGUF names; return what was done, None if nothing."""
    name = _vocabulary(gguf).metadata.get("tokenizer.ggml.pre", "")
    path = folder / "tokenizer.json"
    if name not in PRE_TOKENIZERS or not path.is_file():
        return None
    known = PRE_TOKENIZERS[name]
    content = json.loads(path.read_text(encoding="utf-8"))
    model = content["model"]
    present = PreTokenizer(known.words, content.get("pre_tokenizer"), model.get("ignore_merges", False))
    if present == known:
        return None
    content["pre_tokenizer"] = known.rule
    model["ignore_merges"] = known.ignore_merges
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
    return f"pre-tokenizer set to llama.cpp's {name}: {known.words}"


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
    dequantize.save_tokenizer(gguf, out, context_length)
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
    """Return in one line how the folder's chat template renders unlike the GGUF's, or None.

    transformers renders one side, llama-cpp-python's formatter the other. A conversation that one template
    refuses (some take no system message), the other must refuse too.
    """
    tokenizer, vocabulary = _tokenizer(folder), _vocabulary(gguf)
    template = vocabulary.metadata.get("tokenizer.chat_template")
    if tokenizer.chat_template is None or template is None:
        if tokenizer.chat_template is None and template is None:
            return None
        return f"only the {'GGUF' if template else 'folder'} has a chat template"
    for talk in ([_SYSTEM, *_TALK], _TALK):
        for generation in (True, False):
            with chat_templates.limits():
                ours = _render_folder(tokenizer, talk, generation)
                theirs = _render_gguf(vocabulary, template, talk, generation)
            if ours != theirs:
                where = f"{talk[0]['role']} first, add_generation_prompt={generation}"
                return f"chat template, {where}: {_parting(ours, theirs)}"
    return None


def _render_folder(tokenizer: "PreTrainedTokenizerBase", talk: list[dict[str, str]], generation: bool) -> str | None:
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=generation))
    except TemplateError:
        return None


def _render_gguf(vocabulary: "Llama", template: str, talk: list[dict[str, str]], generation: bool) -> str | None:
    import llama_cpp
    from jinja2 import TemplateError
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    entries = llama_cpp.llama_model_get_vocab(vocabulary.model)

    def token_text(token: int) -> str:
        if token < 0:
            return ""
        return str(llama_cpp.llama_vocab_get_text(entries, token).decode())

    bos, eos = token_text(vocabulary.token_bos()), token_text(vocabulary.token_eos())
    try:
        formatter = Jinja2ChatFormatter(template, eos, bos, add_generation_prompt=generation)
        return str(formatter(messages=cast("Any", talk)).prompt)
    except (TemplateError, ValueError):  # it raises ValueError where a template calls raise_exception
        return None


def _parting(ours: str | None, theirs: str | None) -> str:
    if ours is None or theirs is None:
        return f"the {'folder' if ours is None else 'GGUF'} refuses it"
    at = _first_difference(ours, theirs)
    return f"at character {at} {ours[at : at + 30]!r} in the folder, {theirs[at : at + 30]!r} in the GGUF"


def _tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _vocabulary(gguf: Path) -> "Llama":
    from llama_cpp import Llama

    return Llama(model_path=str(gguf), vocab_only=True, verbose=False)
