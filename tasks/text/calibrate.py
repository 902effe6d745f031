"""Stage 2: turns text into token windows for calibration and evaluation, which share no document.

The digest of a document decides its side. So the two sides are disjoint for all seeds, lengths and files, even if a text
repeats itself (a fifth of Python's own topics occurs twice). A change of the calibration text changes neither the
evaluation windows nor the figures measured on them. `sources.py` defines a document and what exactly is promised.
"""

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from quantmill.errors import RecipeError, TextError
from quantmill.files import keys
from quantmill.recipe.methods import METHODS
from quantmill.recipe.recipe import Recipe, TokenRequest
from quantmill.recipe.texts import Share
from quantmill.records.artifact import Architecture, Snapshot, StageResult, TokenSet
from quantmill.store.store import Store
from tasks import installed
from tasks.sandbox import Sandbox
from tasks.source import fields, snapshots, templates
from tasks.text import sources
from tasks.text.job import Arguments
from tasks.text.rows import Document
from tasks.text.sources import Role
from tasks.tokenizer import chat

REVISION = 1
PACKAGES = ("tokenizers", "safetensors")
READING = 1
"""Revision of how files, rows and mixtures are read; the key of the built-in text does not contain it."""
_PIECE_SIGNS = 1 << 20


class Part(NamedTuple):
    """The documents of one source for a token set."""

    share: Share
    documents: list[Document]

    @property
    def templated(self) -> bool:
        """Whether the documents go through the model's chat template."""
        return self.share.text.chat_template or any(document.messages for document in self.documents)

    @property
    def text(self) -> str:
        """The plain documents, in their order."""
        return "\n\n".join(document.text for document in self.documents)


def check_texts(recipe: Recipe) -> None:
    """Reject unusable text files; reads only what is needed, never the network.

    Raises:
        TextError: a file is missing, has another format than its name says, or has fewer bytes than the tokens asked for.
    """
    for role, request in _requests(recipe).items():
        for _ in read_parts(request, role, far=False):
            pass


def check_all(recipe: Recipe) -> None:
    """Reject unusable text files and data sets of the hub, and a model that lacks a needed chat template.

    Raises:
        TextError: as in `check_texts`; or messages must be rendered and the model has no chat template.
    """
    for role, request in _requests(recipe).items():
        for part in read_parts(request, role):
            if part.templated and templates.lacks_template(recipe.model):
                field = "chat_template" if part.share.text.chat_template else "source"
                raise TextError(
                    f"{role}.{part.share.field}{field}: {recipe.model.source} has no chat template;"
                    " give plain text, without chat_template"
                )


def require_context(recipe: Recipe, shape: Architecture) -> None:
    """Raise RecipeError if a window is longer than the model's `max_position_embeddings`; reads no text."""
    seen = any(METHODS[request.method].calibrated for request in recipe.variants)
    for role, request in _requests(recipe).items():
        if 0 < shape.positions < request.sequence_length and (seen or role == "evaluation"):
            raise RecipeError(
                f"{role}.sequence_length: {request.sequence_length} tokens are more than the {shape.positions} that the model"
                " is made for (max_position_embeddings of its config)"
            )


def _requests(recipe: Recipe) -> dict[Role, TokenRequest]:
    return {"calibration": recipe.calibration, "evaluation": recipe.evaluation}


def read_parts(request: TokenRequest, role: Role, far: bool = True) -> Iterator[Part]:
    """Yield each source's documents on the side of `role`; the first of two sources keeps a document.

    Args:
        request: the texts, windows and lengths that the recipe asks for.
        role: the side.
        far: also read data sets of the hub.

    Raises:
        TextError: a source cannot be used, or is too short.
    """
    seen = set[str]()
    for share in request.shares:
        if share.text.kind == "dataset" and not far:
            continue
        where, tokens = f"{role}.{share.field}", share.windows * request.sequence_length
        found = sources.take(share.text, role, tokens, where)
        part = Part(share, [document for document in found if document.words not in seen])
        seen.update(document.words for document in part.documents)
        name = f"{where}source: {share.text.source}"
        if not part.documents:
            raise TextError(f"{name}: holds no text on the {role} side; at least {tokens} tokens are needed")
        if not part.templated and (held := len(part.text.encode())) < tokens:
            raise TextError(f"{name}: {held} bytes on the {role} side hold fewer than the {tokens} tokens asked for")
        yield part


def build_token_sets(
    recipe: Recipe, snapshot: Snapshot, store: Store, sandbox: Sandbox, calibrated: bool
) -> tuple[TokenSet | None, TokenSet]:
    """Return the calibration windows (None if no method uses them) and the evaluation windows.

    Raises:
        TextError: a text is too short for the requested windows.
    """
    calibration = _build(recipe.calibration, "calibration", snapshot, store, sandbox) if calibrated else None
    return calibration, _build(recipe.evaluation, "evaluation", snapshot, store, sandbox)


def _build(request: TokenRequest, role: Role, snapshot: Snapshot, store: Store, sandbox: Sandbox) -> TokenSet:
    identities = [sources.identity(share.text, f"{role}.{share.field}", sandbox.home) for share in request.shares]
    key = _key(request, role, identities, snapshot)
    if found := store.look_up("tokens", key):
        return TokenSet.model_validate(found.value | {"request": request.model_dump()})
    tokenizer = snapshots.local_folder(snapshot, sandbox) / "tokenizer.json"
    windows, template = list[list[int]](), ""
    for part in read_parts(request, role):
        text = part.text
        if part.templated:
            text, template = _rendered(part, role, tokenizer.parent, sandbox), chat.digest(snapshot)
        asked = {"source": part.share.text.source, "samples": part.share.windows}
        windows += cut_windows(text, tokenizer, request.model_copy(update=asked), role)
    texts = tuple(identity["sha256"] for identity in identities)
    with sandbox.scratch() as place:
        _save(windows, place / "out" / f"{role}.safetensors")
        (entry,) = store.add_folder(place / "out")
    tokens = TokenSet(
        request=request,
        role=role,
        text_sha256=texts[0] if len(texts) == 1 else keys.digest(list(texts)),
        texts=texts,
        template_digest=template,
        tokenizer_digest=snapshot.tokenizer_digest,
        file=entry,
    )
    value = tokens.model_dump(mode="json")
    store.record(StageResult(stage="tokens", key=key, blobs=(entry,), value=value, made_at=time.time()))
    return tokens


def _key(request: TokenRequest, role: Role, identities: list[dict[str, str]], snapshot: Snapshot) -> str:
    """Return the stage key of a token set: the texts' content and numbers of windows, no paths or weights."""
    text, reading, shares = identities[0]["sha256"], dict[str, Any](), request.shares
    packages: tuple[str, ...] = PACKAGES
    if request.mix or request.chat_template or request.kind != "builtin":
        parts = zip(identities, shares, strict=True)
        text = keys.digest([[found, share.windows, share.text.chat_template] for found, share in parts])
        reading = {"reading": READING}
        if any(share.text.chat_template or share.text.in_rows for share in shares):  # rows may hold messages
            reading["template"] = chat.digest(snapshot)
            packages += chat.PACKAGES
        if any(share.text.kind == "dataset" for share in shares):
            packages += ("datasets",)
    return keys.stage_key(
        "tokens",
        request=request.model_dump(include={"samples", "sequence_length", "seed"}),
        role=role,
        text=text,
        tokenizer=snapshot.tokenizer_digest,
        revision=REVISION,
        engines=installed.locked(packages),
        **reading,
    )


def _rendered(part: Part, role: Role, folder: Path, sandbox: Sandbox) -> str:
    """Return the documents of a source as one text, rendered by the model's chat template."""
    talks = [list(document.messages) or [{"role": "user", "content": document.text}] for document in part.documents]
    with sandbox.scratch() as place:
        path = place / "work" / "conversations.json"
        path.write_text(json.dumps(talks), encoding="utf-8")
        where = f"{role}.{part.share.field}source: {part.share.text.source}"
        told = Arguments(folder=folder, conversations=path, where=where)
        with fields.of_model(), sandbox.run(told, role, chat.PACKAGES) as result:
            return "".join(json.loads((result.out / "rendered.json").read_bytes()))


def cut_windows(text: str, tokenizer_file: Path, request: TokenRequest, role: Role) -> list[list[int]]:
    """Return windows of `sequence_length` ids: pieces of the text, drawn by the seed, in text order.

    If the tokenizer puts a special token (BOS) before every text, every window begins with that token.

    Raises:
        TextError: the text holds fewer different windows than requested.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    ids = [token for piece in _pieces(text) for token in tokenizer.encode(piece, add_special_tokens=False).ids]
    bare, dressed = (tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True))
    opening = dressed[: dressed.index(bare[0])] if bare and bare[0] in dressed else []
    step = request.sequence_length - len(opening)
    pieces = [ids[start : start + step] for start in range(0, len(ids) - step + 1, step)]
    unique = list({tuple(piece): None for piece in pieces})
    if len(unique) < request.samples:
        raise TextError(
            f"{role}.samples: the {role} side of {request.source} holds {len(unique)} different windows of"
            f" {request.sequence_length} tokens, {request.samples} are asked for; use fewer or shorter windows, or more text"
        )
    drawn = sorted(random.Random(request.seed).sample(range(len(unique)), request.samples))
    return [[*opening, *unique[index]] for index in drawn]


def _pieces(text: str) -> Iterator[str]:
    """Yield a text in pieces of about a million characters, cut at line ends.

    The tokenizer's memory is 30 times the text that it encodes at once.
    """
    start = 0
    while start < len(text):
        end = text.find("\n", start + _PIECE_SIGNS) + 1 or len(text)
        yield text[start:end]
        start = end


def _save(windows: list[list[int]], path: Path) -> None:
    import numpy
    from safetensors.numpy import save_file

    save_file({"input_ids": numpy.array(windows, dtype=numpy.int32)}, path)
