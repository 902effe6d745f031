"""A finished checkpoint is imported unchanged, with the same bytes and the same figures.

The real engines make the checkpoints here.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from flows import recall
from quantmill.errors import SourceError
from quantmill.files.entries import FileEntry
from quantmill.recipe.recipe import VariantSpec
from quantmill.records import selection
from quantmill.records.artifact import Artifact
from quantmill.records.job import VariantJob
from quantmill.records.report import Outcome
from tasks.marks import marks_of
from tests.tasks.quantize.bench import Bench

pytestmark = pytest.mark.slow

MADE = ["gptq-4bit-g64", "bitsandbytes-nf4", "gguf-q4_k_m"]
NAMES = {"gptq-4bit-g64": "imported-gptq-4bit-g64", "gguf-q4_k_m": "imported-q4_k_m"}


def finished(bench: Bench, name: str, folder: Path) -> Path:
    """Return a checkpoint that an engine made of the tiny model: a folder without links, or one GGUF file."""
    artifact = bench.make(bench.jobs[name])
    files = [file for file in artifact.files if artifact.format != "gguf" or file.path.endswith(".gguf")]
    bench.store.fetch(tuple(files), folder / "linked")
    place = Path(shutil.copytree(folder / "linked", folder / name))
    shutil.rmtree(folder / "linked")
    return place if artifact.format != "gguf" else place / files[0].path


def importing(bench: Bench, model: Path, places: list[Path]) -> Bench:
    """Return the same home and model, with the checkpoints to be imported."""
    requests: list[dict[str, Any]] = [{"method": "imported", "source": [str(path) for path in places]}]
    return Bench(bench.sandbox.home, model, requests)


def test_it_is_the_same_bytes_weights_and_figures(bench: Bench, tiny: Path, tmp_path: Path) -> None:
    importer = importing(bench, tiny, [finished(bench, name, tmp_path) for name in MADE])
    assert list(importer.jobs) == ["imported-gptq-4bit-g64", "imported-bitsandbytes-nf4", "imported-q4_k_m"]
    for name, job in zip(MADE, importer.jobs.values(), strict=True):
        made, taken = bench.make(bench.jobs[name]), importer.make(job)
        assert set(taken.files) == set(made.files), "byte for byte, and no file more"
        assert taken.bits_per_weight == made.bits_per_weight
        assert {t.name: (t.scheme, t.bits) for t in taken.tensors} == {t.name: (t.scheme, t.bits) for t in made.tensors}
        assert not taken.fallback_share
        assert job.runtime == bench.jobs[name].runtime
    for name, taken_name in NAMES.items():
        first, second = bench.measure(bench.jobs[name]), importer.measure(importer.jobs[taken_name])
        assert second.quality == first.quality, taken_name


def test_what_older_readers_would_misread_stays_and_is_a_mark(bench: Bench, tiny: Path, tmp_path: Path) -> None:
    place = finished(bench, "bitsandbytes-nf4", tmp_path)
    config = json.loads((place / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"], "what is made here has both forms"
    older = ("rope_theta", "rope_scaling", "torch_dtype")
    written = json.dumps({name: value for name, value in config.items() if name not in older})
    (place / "config.json").write_text(written)
    importer = importing(bench, tiny, [place])
    (job,) = importer.jobs.values()
    importer.measure(job)
    outcome = recall.recall(job, importer.store)
    assert outcome is not None
    assert outcome.marks == ("transformers 4 misses rope_theta and torch_dtype",)
    assert outcome.artifact is not None
    importer.store.fetch(outcome.artifact.files, tmp_path / "taken")
    assert (tmp_path / "taken" / "config.json").read_text() == written


def test_a_file_that_changed_after_the_look_is_refused(bench: Bench, tiny: Path, tmp_path: Path) -> None:
    place = finished(bench, "gguf-q4_k_m", tmp_path)
    importer = importing(bench, tiny, [place])
    (job,) = importer.jobs.values()
    spec: VariantSpec = job.spec
    assert spec.source is None
    assert spec.canonical()["checkpoint"] == spec.checkpoint
    assert place.name not in str(spec.canonical()), "where it lies is no part of the key"
    record_of(importer, job).unlink(missing_ok=True)
    damaged = bytearray(place.read_bytes())
    damaged[-1] ^= 1  # a weight: the file is as sound as before
    place.write_bytes(damaged)
    with pytest.raises(SourceError, match=r"imported-q4_k_m: model-Q4_K_M\.gguf is not what it was when the run began"):
        importer.make(job)
    assert not record_of(importer, job).exists(), "and is no result"


def record_of(bench: Bench, job: VariantJob) -> Path:
    return Path(bench.store.uri, "stages", "artifact", f"{job.artifact_key}.json")


@pytest.mark.parametrize(("name", "most"), [("gptq-4bit-g64", 1e-4), ("gguf-q4_k_m", 1e-3)])
def test_the_model_itself_is_its_own_baseline_and_marked_so(
    bench: Bench, tmp_path: Path, name: str, most: float
) -> None:
    alone = Bench(bench.sandbox.home, finished(bench, name, tmp_path), [{"method": "imported"}])
    (job,) = alone.jobs.values()
    assert job.name == NAMES[name]
    assert weights(alone.make(job)) == weights(bench.make(bench.jobs[name]))
    assert job.snapshot.parameters == bench.jobs[name].snapshot.parameters
    marks = marks_of(job, Outcome(name=job.name, artifact=alone.make(job)), {})
    assert selection.SOURCE_GRID in marks
    report = alone.measure(job)
    assert abs(report.quality.mean_kl) < most, "rounding to bf16, no more"


def weights(artifact: Artifact) -> list[FileEntry]:
    """Return the weight file, byte for byte; beside a GGUF lies the tokenizer that was read from it."""
    found = [file for file in artifact.files if file.path.endswith((".safetensors", ".gguf"))]
    assert len(found) == 1
    return found
