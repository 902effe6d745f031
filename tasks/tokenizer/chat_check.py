"""Checks that a folder's chat template and a GGUF's render a conversation to the same text.

transformers renders the folder's template, llama-cpp-python's formatter the GGUF's. Several named templates are compared
by name.
"""

from typing import TYPE_CHECKING, Any, cast

from tasks.tokenizer import chat

if TYPE_CHECKING:
    from llama_cpp import Llama
    from transformers import PreTrainedTokenizerBase

_SYSTEM = {"role": "system", "content": "You answer in one sentence. "}
_TALK = [
    {"role": "user", "content": "What is 12 + 30?"},
    {"role": "assistant", "content": " It is 42.\n"},
    {"role": "user", "content": "And\n\n- why <b>so</b>?  'Tell me', in 你好 & 1,000 words."},
]
_TALKS = ([_SYSTEM, *_TALK], _TALK, _TALK[:1])
_FIELD = "tokenizer.chat_template"


def difference(tokenizer: "PreTrainedTokenizerBase", vocabulary: "Llama") -> str | None:
    """Return in one line how the renderings of the folder's and the GGUF's chat templates differ, or None.

    If one template refuses a conversation (some allow no system message), the other must refuse it too. If both sides hold
    the same template text, a conversation that one renderer fails on is skipped.
    """
    ours, theirs = _of_folder(tokenizer), _of_gguf(vocabulary)
    if lone := sorted(set(ours) ^ set(theirs)):
        name = "a chat template" if lone == ["default"] else f"the chat template {lone[0]!r}"
        return f"only the {'folder' if lone[0] in ours else 'GGUF'} has {name}"
    for name in sorted(ours):
        if words := _parting_of(tokenizer, vocabulary, ours[name], theirs[name]):
            return f"chat template{'' if name == 'default' else f' {name!r}'}, {words}"
    return None


def _of_folder(tokenizer: "PreTrainedTokenizerBase") -> dict[str, str]:
    """Return name -> template; names have `_` for all but letters and digits, as a GGUF's writer does."""
    held = tokenizer.chat_template
    if held is None:
        return {}
    named = held if isinstance(held, dict) else {"default": held}
    return {"".join(c if c.isascii() and c.isalnum() else "_" for c in name): text for name, text in named.items()}


def _of_gguf(vocabulary: "Llama") -> dict[str, str]:
    held = {name: text for name, text in vocabulary.metadata.items() if name.startswith(_FIELD)}
    own = {"default": held[_FIELD]} if _FIELD in held else {}
    return own | {name.removeprefix(f"{_FIELD}."): text for name, text in held.items() if name.startswith(f"{_FIELD}.")}


def _parting_of(tokenizer: "PreTrainedTokenizerBase", vocabulary: "Llama", ours: str, theirs: str) -> str | None:
    for talk in _TALKS:
        for generation in (True, False):
            with chat.limits():
                one = _render_folder(tokenizer, ours, talk, generation)
                other = _render_gguf(vocabulary, theirs, talk, generation)
            if one == other or (ours == theirs and None in (one, other)):
                continue
            return f"{talk[0]['role']} first, add_generation_prompt={generation}: {_words(one, other)}"
    return None


def _render_folder(
    tokenizer: "PreTrainedTokenizerBase", template: str, talk: list[dict[str, str]], generation: bool
) -> str | None:
    from jinja2 import TemplateError

    try:
        made = tokenizer.apply_chat_template(
            talk, chat_template=template, tokenize=False, add_generation_prompt=generation
        )
        return str(made)
    except (TemplateError, ValueError, TypeError, RecursionError):
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
    except (TemplateError, ValueError, TypeError, RecursionError):  # ValueError: a template called raise_exception
        return None


def _words(ours: str | None, theirs: str | None) -> str:
    if ours is None or theirs is None:
        return f"the {'folder' if ours is None else 'GGUF'} refuses it"
    pairs = enumerate(zip(ours, theirs, strict=False))
    at = next((at for at, (one, other) in pairs if one != other), min(len(ours), len(theirs)))
    return f"at character {at} {ours[at : at + 30]!r} in the folder, {theirs[at : at + 30]!r} in the GGUF"
