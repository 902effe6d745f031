"""Transformers 4 in folders of its own, kept between runs of the tests: what older readers take from a config.json."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from filelock import FileLock

from tests.kept import KEPT

RELEASES = {
    "4.45": ("transformers==4.45.2", "tokenizers==0.20.3", "huggingface_hub<1"),
    "4": ("transformers<5", "tokenizers<0.23", "huggingface_hub<1"),  # the newest
}
_READ = """
import json, sys
sys.path.insert(0, sys.argv[1])
import transformers
from transformers import CONFIG_MAPPING
assert transformers.__version__.startswith(sys.argv[2]), transformers.__version__
read = []
for config in json.load(sys.stdin):
    known = config["model_type"] in CONFIG_MAPPING
    found = CONFIG_MAPPING[config["model_type"]].from_dict(config) if known else None
    names = [name for name in dir(found) if not name.startswith("_")] if known else []
    read.append({name: value for name in names if not callable(value := getattr(found, name))} if known else None)
print("READ" + json.dumps(read, default=str))
"""


def read(release: str, configs: list[dict[str, Any]]) -> list[dict[str, Any] | None]:
    """Return what a release of transformers 4 takes from configs: attribute -> value; None: it does not know the model type."""
    folder = _installed(release)
    command = [sys.executable, "-c", _READ, str(folder), f"{release}."]
    said = subprocess.run(command, input=json.dumps(configs), capture_output=True, text=True, timeout=120)
    assert said.returncode == 0, said.stderr
    found: list[dict[str, Any] | None] = json.loads(said.stdout.rpartition("READ")[2])
    return found


def _installed(release: str) -> Path:
    """Return the folder of a release; what it needs beside it comes from the tests' own environment."""
    folder = KEPT / f"transformers-{release}"
    KEPT.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "complete").exists():
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(folder)]
            subprocess.run([*pip, *RELEASES[release]], check=True)
            (folder / "complete").touch()
    return folder
