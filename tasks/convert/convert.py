"""Stage 3, GGUF only: converts the snapshot to one BF16 GGUF file, from which all types are made."""

import time

from quantmill.files import keys
from quantmill.records.artifact import Snapshot, StageResult
from quantmill.store.store import Store
from tasks import installed
from tasks.convert.job import Convert
from tasks.sandbox import Sandbox
from tasks.source import snapshots

REVISION = 2
PACKAGES = ("auto-round", "gguf", "llama-cpp-python", "torch", "transformers")


def key_of(source: str, name: str) -> str:
    """Return the stage key of a conversion; `source` is the digest of the snapshot or of its core.

    `name` is the model's name in the file's metadata.
    """
    return keys.stage_key("conversion", source=source, name=name, revision=REVISION, engines=installed.locked(PACKAGES))


def convert_snapshot(snapshot: Snapshot, key: str, name: str, store: Store, sandbox: Sandbox) -> StageResult:
    """Return the conversion with stage key `key`; `name` is the model's name in the file's metadata.

    Raises:
        SourceError: llama.cpp's converter does not know the architecture.
        TokenizerMismatch: the file tokenizes or renders a chat unlike the snapshot.
    """
    if found := store.look_up("conversion", key):
        return found
    told = Convert(source=snapshots.local_folder(snapshot, sandbox), name=name)
    with sandbox.run(told, "gguf", PACKAGES) as result:
        files = store.add_folder(result.out)
        value = {"seconds": result.seconds, "peak_memory_bytes": result.peak_memory_bytes}
        made = StageResult(stage="conversion", key=key, blobs=files, value=value, made_at=time.time())
        return store.record(made)
