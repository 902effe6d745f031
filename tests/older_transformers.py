"""Reads config.json with transformers 4, in environments that are kept between runs of the tests."""

import json
import subprocess
from pathlib import Path
from typing import Any

from quantmill.errors import EnvironmentNotReady
from tasks import environments
from tests.kept import KEPT

RELEASES = ("4.45", "4.57")
_READ = """
import json, sys
import transformers
from transformers import CONFIG_MAPPING
assert transformers.__version__.startswith(sys.argv[1]), transformers.__version__
read = []
for config in json.load(sys.stdin):
    known = config["model_type"] in CONFIG_MAPPING
    found = CONFIG_MAPPING[config["model_type"]].from_dict(config) if known else None
    names = [name for name in dir(found) if not name.startswith("_")] if known else []
    read.append({name: value for name in names if not callable(value := getattr(found, name))} if known else None)
print("READ" + json.dumps(read, default=str))
"""


def read(release: str, configs: list[dict[str, Any]]) -> list[dict[str, Any] | None]:
    """Return what a release of transformers 4 reads from configs, as attribute -> value.

    None stands for a model type that the release does not know.
    """
    command = [str(_interpreter(f"transformers-{release}")), "-I", "-c", _READ, f"{release}."]
    said = subprocess.run(command, input=json.dumps(configs), capture_output=True, text=True, timeout=120)
    assert said.returncode == 0, said.stderr
    found: list[dict[str, Any] | None] = json.loads(said.stdout.rpartition("READ")[2])
    return found


def _interpreter(name: str) -> Path:
    """Return the interpreter of an environment, which is made where it is missing."""
    root = KEPT / "environments"
    try:
        return environments.interpreter(name, root)
    except EnvironmentNotReady:
        environments.create(environments.read(name), root, print)
        return environments.interpreter(name, root)
