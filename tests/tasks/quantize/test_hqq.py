"""HQQ's peculiarities: its folder has the lines that load it, and cannot be loaded as plain weights."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tasks.quantize.bench import Bench

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(bench: Bench, tmp_path: Path) -> Path:
    bench.store.fetch(bench.make(bench.jobs["hqq-4bit-g64"]).files, tmp_path / "folder")
    return tmp_path / "folder"


def test_the_printed_loader_loads_it_without_quantmill(folder: Path) -> None:
    (lines,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    script = folder.parent / "load.py"
    script.write_text(
        lines
        + "\nimport sys\nassert not {'quantmill', 'tasks'} & set(sys.modules)\n"
        + "print(tuple(model(torch.tensor([[1, 2, 3]])).logits.shape))\n"
    )
    done = subprocess.run([sys.executable, "-I", str(script)], cwd=folder, capture_output=True, text=True)
    assert done.stdout.strip().splitlines()[-1:] == ["(1, 3, 49152)"], done.stderr[-2000:]


def test_transformers_fails_on_the_folder_and_makes_no_weights_up(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    with pytest.raises(KeyError, match="skip_modules"):
        AutoModelForCausalLM.from_pretrained(folder)
