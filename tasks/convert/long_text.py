"""Stage 3, GGUF only: one text longer than a window or an unscaled rotary embedding reaches, scored once a conversion."""

import time

from pydantic import BaseModel, ConfigDict, Field

from quantmill.errors import OutOfMemory, TimedOut
from quantmill.files import keys
from quantmill.records.artifact import Snapshot, StageResult
from quantmill.store.store import Store
from tasks import installed
from tasks.convert.job import Compare
from tasks.sandbox import Sandbox
from tasks.source import snapshots

REVISION = 1
PACKAGES = ("llama-cpp-python", "tokenizers", "torch", "transformers")


class LongText(BaseModel):
    """How far a conversion is from its source on one longer text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: int = Field(description="Length of the text.")
    mean_kl: float | None = Field(
        default=None, description="Mean KL over its last 512 positions, nats; None: not computed."
    )
    why: str = Field(default="", description="What did not suffice: memory or time; empty: it was computed.")


def find_long_text(conversion_key: str, tokens: int, store: Store) -> LongText | None:
    """Return what was found before, or None."""
    found = store.look_up("longtext", _key(conversion_key, tokens))
    return LongText.model_validate(found.value) if found else None


def score_long_text(
    snapshot: Snapshot, conversion: StageResult, tokens: int, store: Store, sandbox: Sandbox
) -> LongText:
    """Return how far the conversion is from its snapshot on a text of `tokens` tokens; nothing is computed past 120 s.

    Raises:
        JobError: one of the two cannot be loaded.
    """
    if found := find_long_text(conversion.key, tokens, store):
        return found
    with sandbox.scratch() as place:
        store.fetch(conversion.blobs, place / "out" / "conversion")
        told = Compare(
            source=snapshots.local_folder(snapshot, sandbox),
            conversion=place / "out" / "conversion" / "model.gguf",
            tokens=tokens,
        )
        try:
            with sandbox.run(told, "gguf", PACKAGES) as result:
                found = LongText(tokens=tokens, **result.value)
        except (OutOfMemory, TimedOut) as error:
            return LongText(tokens=tokens, why=str(error))
    value, key = found.model_dump(mode="json"), _key(conversion.key, tokens)
    store.record(StageResult(stage="longtext", key=key, value=value, made_at=time.time()))
    return found


def _key(conversion_key: str, tokens: int) -> str:
    return keys.stage_key(
        "longtext", conversion=conversion_key, tokens=tokens, revision=REVISION, engines=installed.locked(PACKAGES)
    )
