"""Stage 3, GGUF only: scores each conversion once on a text longer than its window or rotary range."""

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
    """The divergence of a conversion from its source on one longer text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: int = Field(description="Length of the text in tokens.")
    mean_kl: float | None = Field(
        default=None, description="Mean KL divergence over the text's last 512 positions, in nats; None: not computed."
    )
    why: str = Field(default="", description="Why it was not computed: memory or time; empty: it was computed.")


def find_long_text(conversion_key: str, tokens: int, store: Store) -> LongText | None:
    """Return the stored result for a conversion, or None."""
    found = store.look_up("longtext", _key(conversion_key, tokens))
    return LongText.model_validate(found.value) if found else None


def score_long_text(
    snapshot: Snapshot, conversion: StageResult, tokens: int, store: Store, sandbox: Sandbox
) -> LongText:
    """Return the divergence of the conversion from its snapshot on a text of `tokens` tokens.

    The divergence is not computed if memory or 120 s would not suffice; `why` then says so.

    Raises:
        JobError: the snapshot or the conversion cannot be loaded.
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
