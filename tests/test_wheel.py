"""The wheel holds the contract alone: in an environment with only what it asks for, its command answers."""

import importlib.metadata
import json
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent


def closure(requirements: list[str]) -> set[str]:
    """Return the distributions that requirements bring, by the metadata of what is installed."""
    found: set[str] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        wanted = waiting.pop()
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        if name in found or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        waiting += [Requirement(text) for text in importlib.metadata.requires(name) or []]
    return found


@pytest.mark.slow
def test_the_wheel_in_an_empty_environment(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    site = next((tmp_path / "env").glob("lib/python*/site-packages"))
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--no-deps",
            "--no-index",
            "--quiet",
            "--target",
            str(site),
            str(wheel),
        ],
        check=True,
    )
    asked = next(site.glob("quantmill-*.dist-info/METADATA")).read_text()
    brought = closure(re.findall(r"^Requires-Dist: (?!.*extra ==)(.+)$", asked, re.MULTILINE))
    assert not brought & {"torch", "prefect", "mlflow", "transformers", "numpy", "gptqmodel"}
    assert (site / "quantmill" / "cli.py").exists()
    assert not (site / "flows").exists()
    assert not (site / "tasks").exists()
    for name in brought:  # as pip would install them, from what is here already
        distribution = importlib.metadata.distribution(name)
        for file in distribution.files or []:
            if ".." not in file.parts and "__pycache__" not in file.parts:
                target = site / file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(Path(str(distribution.locate_file(file))).read_bytes())

    def answer(*arguments: str) -> str:
        command = [str(tmp_path / "env" / "bin" / "python"), "-m", "quantmill.cli", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout

    rows = {row["name"]: row for row in json.loads(answer("methods", "--json", "-"))["methods"]}
    assert rows["gptq"]["obstacle"] == "gptqmodel is not installed"
    assert json.loads(answer("list", "--json", "-")) == {"models": []}
    assert "Run the line" not in answer("--help"), "the factory comes with the checkout"
