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

RUN = """
import os, runpy, sys

place, *kinds = sys.argv[1:]
for kind in kinds:
    print("==", kind, flush=True)
    os.chdir(f"{place}/{kind}")
    runpy.run_path(f"{place}/{kind}.py")
assert not {"quantmill", "tasks"} & set(sys.modules)
"""


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


def test_the_lines_of_a_card_load_the_folder(bench: Bench, tmp_path: Path) -> None:
    """One interpreter runs the lines of all kinds; GPTQModel, which patches libraries, comes last."""
    kinds = ["baseline-bf16", "bitsandbytes-nf4", "gptq-4bit-g64", "hqq-4bit-g64", "gguf-q8_0", "gptq-2bit"]
    for kind in kinds:
        name = next(known for known in bench.jobs if known.startswith(kind))
        made = published(bench, name, tmp_path / kind)
        assert [file.path for file in made.files].count("README.md") == 1
        (lines,) = re.findall(r"```python\n(.*?)```", (tmp_path / kind / "README.md").read_text(), re.DOTALL)
        (tmp_path / f"{kind}.py").write_text(f"{lines}\nassert model\n")
    done = subprocess.run(
        [sys.executable, "-I", "-c", RUN, str(tmp_path), *kinds], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    parts = done.stdout.split("== ")[1:]
    assert [part.partition("\n")[0] for part in parts] == kinds
    for part in parts:
        kind, _, written = part.partition("\n")
        assert written.strip() or kind == "hqq-4bit-g64", f"{kind} wrote nothing"  # its lines give the model alone
