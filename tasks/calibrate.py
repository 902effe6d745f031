"""Stage 2: text becomes token windows, for calibration and for evaluation, which share none.

The digest of a paragraph says on which side it falls, so the two sides are disjoint whatever the seeds, lengths and
files are (texts repeat themselves: a fifth of Python's own topics stands there twice), and neither depends on the other:
another calibration text leaves the evaluation, and all that was measured on it, as it is.
"""

import hashlib
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from quantmill import keys
from quantmill.artifact import Snapshot, StageResult, TokenSet
from quantmill.errors import TextError
from quantmill.recipe import Recipe, TokenRequest
from quantmill.store.protocol import Store
from tasks import engines, snapshots
from tasks.sandbox import Sandbox, scratch

Role = Literal["calibration", "evaluation"]
REVISION = 1
PACKAGES = ("tokenizers", "safetensors")
_LONG_SIGNS = 2000


def read_text(request: TokenRequest, role: Role) -> str:
    """Return the text that a token request names.

    Raises:
        TextError: it is missing, empty, not UTF-8, or too short however it is tokenized (a token is a byte at least).
    """
    field = f"{role}.source"
    if request.source == "builtin":
        from pydoc_data import topics

        text = "\n\n".join(topics.topics[name] for name in sorted(topics.topics))
    else:
        try:
            path = Path(request.source).expanduser()
            if path.exists() and not path.is_file():
                raise TextError(f"{field}: {request.source}: not a plain file")
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise TextError(
                f"{field}: {request.source[:80]}: {(error.strerror or 'cannot be read').lower()}"
            ) from error
        except UnicodeDecodeError as error:
            raise TextError(f"{field}: {request.source}: not UTF-8 (byte {error.start})") from error
        except (RuntimeError, ValueError) as error:
            raise TextError(f"{field}: {request.source[:80]}: {error}") from error
    needed, held = request.samples * request.sequence_length, len(side_of(text, role).encode())
    if not text.strip():
        raise TextError(f"{field}: {request.source}: holds no text; at least {needed} tokens are needed")
    if held < needed:
        raise TextError(
            f"{field}: {request.source}: {held} bytes on the {role} side hold fewer than the {needed} tokens asked for"
        )
    return text


def build_token_sets(
    recipe: Recipe, snapshot: Snapshot, store: Store, sandbox: Sandbox, calibrated: bool
) -> tuple[TokenSet | None, TokenSet]:
    """Return the calibration windows (None where no method uses them) and the evaluation windows.

    Raises:
        TextError: a text is too short for the windows asked for.
    """
    calibration = _build(recipe.calibration, "calibration", snapshot, store, sandbox) if calibrated else None
    return calibration, _build(recipe.evaluation, "evaluation", snapshot, store, sandbox)


def _build(request: TokenRequest, role: Role, snapshot: Snapshot, store: Store, sandbox: Sandbox) -> TokenSet:
    text = read_text(request, role)
    inputs = {
        "request": request.model_dump(exclude={"source"}),
        "role": role,
        "text": hashlib.sha256(text.encode()).hexdigest(),
    }
    tokenizer, versions = snapshot.tokenizer_digest, engines.locked(PACKAGES)
    key = keys.stage_key("tokens", **inputs, tokenizer=tokenizer, revision=REVISION, engines=versions)
    if found := store.look_up("tokens", key):
        return TokenSet.model_validate(found.value | {"request": request.model_dump()})
    folder = snapshots.local_folder(snapshot, sandbox)
    windows = cut_windows(side_of(text, role), folder / "tokenizer.json", request, role)
    with scratch(sandbox.home / "scratch") as place:
        _save(windows, place / "out" / f"{role}.safetensors")
        (entry,) = store.add_folder(place / "out")
    tokens = TokenSet(request=request, role=role, text_sha256=inputs["text"], tokenizer_digest=tokenizer, file=entry)
    value = tokens.model_dump(mode="json")
    store.record(StageResult(stage="tokens", key=key, blobs=(entry,), value=value, made_at=time.time()))
    return tokens


def side_of(text: str, role: Role) -> str:
    """Return the paragraphs of a text that fall on the side of `role`, in their order, each once."""
    wanted, kept = 0 if role == "calibration" else 1, dict[str, str]()
    for part in _paragraphs(text):
        words = " ".join(part.split())  # the same paragraph at another indent is the same
        if hashlib.sha256(words.encode()).digest()[0] % 2 == wanted:
            kept.setdefault(words, part)
    return "\n\n".join(kept.values())


def _paragraphs(text: str) -> Iterator[str]:
    """Yield what stands between blank lines, longer stretches in pieces of about 2,000 signs that end with a line."""
    for block in re.split(r"\n[ \t\r]*\n", text):
        lines, signs = list[str](), 0
        for line in block.splitlines():
            lines.append(line)
            signs += len(line)
            if signs >= _LONG_SIGNS:
                yield "\n".join(lines)
                lines, signs = [], 0
        if "".join(lines).strip():
            yield "\n".join(lines).strip("\n")


def cut_windows(text: str, tokenizer_file: Path, request: TokenRequest, role: Role) -> list[list[int]]:
    """Return windows of `sequence_length` ids each: consecutive pieces of the text, drawn by the seed, in text order.

    A tokenizer that opens every text with a special token (BOS) opens every window with it.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    bare, dressed = (tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True))
    opening = dressed[: dressed.index(bare[0])] if bare and bare[0] in dressed else []
    step = request.sequence_length - len(opening)
    pieces = [ids[start : start + step] for start in range(0, len(ids) - step + 1, step)]
    unique = list({tuple(piece): None for piece in pieces})
    if len(unique) < request.samples:
        raise TextError(
            f"{role}.samples: the {role} side of {request.source} holds {len(unique)} different windows of"
            f" {request.sequence_length} tokens, {request.samples} are asked for; take fewer, shorter ones or more text"
        )
    drawn = sorted(random.Random(request.seed).sample(range(len(unique)), request.samples))
    return [[*opening, *unique[index]] for index in drawn]


def _save(windows: list[list[int]], path: Path) -> None:
    import numpy
    from safetensors.numpy import save_file

    save_file({"input_ids": numpy.array(windows, dtype=numpy.int32)}, path)
