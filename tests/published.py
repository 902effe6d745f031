"""Stores with small published versions, for tests of their readers."""

import json
import random
from pathlib import Path
from typing import Any

from quantmill.files.entries import FileEntry
from quantmill.records.artifact import COMPANIONS
from quantmill.records.manifest import Manifest, ManifestEvaluation
from quantmill.store import channels
from quantmill.store.places import open_store
from quantmill.store.store import Store
from tests.samples import manifest, version

VARIANTS: dict[str, dict[str, Any]] = {
    "gguf-q8_0": {"method": "gguf", "bits": 8, "format": "gguf"},
    "gguf-q4_k_m": {"method": "gguf", "bits": 4, "format": "gguf"},
    "gptq-4bit-g64": {"method": "gptq", "bits": 4, "format": "safetensors"},
}


def weights(seed: int, numbers: int = 1000) -> bytes:
    """Return a safetensors file with one tensor."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [numbers], "data_offsets": [0, numbers]}}).encode()
    return len(header).to_bytes(8, "little") + header + random.Random(seed).randbytes(numbers)


def folder(place: Path, seed: int, numbers: int = 1000) -> Path:
    """Write the files of a small variant: equal seeds give equal bytes; config and card are always equal."""
    place.mkdir(parents=True)
    (place / "model-00001-of-00002.safetensors").write_bytes(weights(seed, numbers))
    (place / "model-00002-of-00002.safetensors").write_bytes(weights(seed + 1000, numbers))
    (place / "config.json").write_text('{"model_type": "llama"}')
    (place / "tokenizer.json").write_text('{"model": {"vocab": {}}}')
    (place / "README.md").write_text("# A model\n")
    return place


def publish(
    store: Store, scratch: Path, variant: str = "gguf-q8_0", seed: int = 0, numbers: int = 1000, **changes: Any
) -> Manifest:
    """Publish a version of the model `m`; another seed is another version."""
    place = scratch / f"{variant}-{seed}-{len(list(scratch.glob('*'))) if scratch.exists() else 0}"
    made = describe(store.add_folder(folder(place, seed, numbers)), variant, **changes)
    store.commit(made, version(made, made_at=float(seed), variant=variant))
    return made


def describe(
    files: tuple[FileEntry, ...], variant: str, kl: float = 0.05, memory: int = 10**9, speed: float = 10.0
) -> Manifest:
    """Return a manifest with these figures."""
    made = manifest(files, name=f"m/{variant}")
    quality = made.evaluation.metrics.model_copy(update={"mean_kl": kl})
    speeds = made.evaluation.speed.model_copy(update={"peak_memory_bytes": memory, "decode_tokens_per_s": speed})
    evaluation = made.evaluation.model_copy(update={"metrics": quality, "speed": speeds})
    return made.model_copy(update={"variant": VARIANTS[variant], "evaluation": evaluation})


def stable(store: Store, *made: Manifest) -> channels.Channel:
    """Promote versions to the channel `stable`."""
    wanted = {each.name.partition("/")[2]: each.digest for each in made}
    return channels.promote(store, "m", "stable", wanted, "a test")


def store_in(place: Path) -> Store:
    """Return an empty store."""
    return open_store(place / "store")


def measured_beside(before: Manifest, after: Manifest) -> ManifestEvaluation:
    """Return the figures of `before`, with the baseline's size grown as the companions grew.

    Nothing else may differ between the two.
    """
    old, new = (sum(f.size_bytes for f in each.files if f.path in COMPANIONS) for each in (before, after))
    baseline = before.evaluation.baseline
    assert baseline is not None
    grown = baseline.model_copy(update={"size_bytes": baseline.size_bytes + new - old})
    return before.evaluation.model_copy(update={"baseline": grown})
