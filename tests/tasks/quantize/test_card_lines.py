"""The lines of a model card load its folder, in a process without Quantmill."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from quantmill.records.manifest import Manifest
from quantmill.records.report import Outcome
from tasks.publish import manifests
from tests import samples
from tests.tasks.quantize.bench import Bench

pytestmark = pytest.mark.slow


def published(bench: Bench, name: str, folder: Path) -> Manifest:
    """Lay a variant of the bench out as it is published, with made-up figures."""
    job = bench.jobs[name]
    artifact = bench.make(job)
    runtime = job.spec.runtime(0)
    measured = samples.report(name).model_copy(update={"runtime": runtime, "runtime_version": "0"})
    recipe = bench.recipe
    plain = manifests.build_manifest(recipe, job, Outcome(name=name, artifact=artifact, report=measured))
    made = manifests.with_card(plain, bench.store)
    assert made == manifests.with_card(plain, bench.store)
    bench.store.fetch(made.files, folder)
    return made


@pytest.mark.parametrize(
    "kind",
    [
        "baseline-bf16",
        "bitsandbytes-nf4",
        "gptq-4bit-g64",
        "gptq-2bit",
        "hqq-4bit-g64",
        "gguf-q8_0",
    ],
)
def test_the_lines_of_a_card_load_the_folder(bench: Bench, kind: str, tmp_path: Path) -> None:
    name = next(known for known in bench.jobs if known.startswith(kind))
    made = published(bench, name, tmp_path / "folder")
    text = (tmp_path / "folder" / "README.md").read_text()
    assert [file.path for file in made.files].count("README.md") == 1
    (lines,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    script = tmp_path / "load.py"
    script.write_text(f"{lines}\nimport sys\nassert not {{'quantmill', 'tasks'}} & set(sys.modules)\nassert model\n")
    done = subprocess.run(
        [sys.executable, "-I", str(script)], cwd=tmp_path / "folder", capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    if name != "hqq-4bit-g64":  # its lines give the model alone
        assert done.stdout.strip()
