"""The wheel has only the consumer's part: its command works in an environment with only its packages."""

import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from quantmill.store.places import open_store
from tests import published
from tests.samples import version
from tests.tasks.quantize.bench import Bench

ROOT = Path(__file__).resolve().parents[3]


def closure(requirements: list[str]) -> set[str]:
    """Return the distributions that requirements bring, by the metadata of what is installed."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        wanted = waiting.pop()
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        found.add(name)
        for extra in {"", *wanted.extras} - {known for where, known in seen if where == name}:
            seen.add((name, extra))
            for text in importlib.metadata.requires(name) or []:
                needed = Requirement(text)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    waiting.append(needed)
    return found


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds the wheel and what it asks for, nothing else."""
    base = tmp_path_factory.mktemp("wheel")
    python = [sys.executable, "-m"]
    subprocess.run(
        [*python, "build", "--wheel", "--no-isolation", "--outdir", str(base), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = base.glob("*.whl")
    venv.create(base / "env", with_pip=False, symlinks=True)
    site = next((base / "env").glob("lib/python*/site-packages"))
    install = ["pip", "install", "--no-deps", "--no-index", "--quiet", "--target", str(site), str(wheel)]
    subprocess.run([*python, *install], check=True)
    asked = next(site.glob("quantmill-*.dist-info/METADATA")).read_text()
    brought = closure(re.findall(r"^Requires-Dist: (?!.*extra ==)(.+)$", asked, re.MULTILINE))
    assert not brought & {"torch", "prefect", "mlflow", "transformers", "numpy", "gptqmodel"}
    for name in brought:  # as pip would install them, from what is here already
        distribution = importlib.metadata.distribution(name)
        for file in distribution.files or []:
            if ".." not in file.parts and "__pycache__" not in file.parts:
                target = site / file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(Path(str(distribution.locate_file(file))).read_bytes())
    return base / "env" / "bin" / "python"


def answer(python: Path, *arguments: str, **settings: str) -> str:
    """Return what the command of the environment says."""
    done = subprocess.run(
        [str(python), "-m", "quantmill.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=python.parents[2],
        env={"PATH": os.environ["PATH"], **settings},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_in_an_empty_environment(environment: Path) -> None:
    site = next(environment.parents[1].glob("lib/python*/site-packages"))
    assert (site / "quantmill" / "cli.py").exists()
    assert not (site / "flows").exists()
    assert not (site / "tasks").exists()
    rows = {row["name"]: row for row in json.loads(answer(environment, "methods", "--json", "-"))["methods"]}
    assert rows["gptq"]["obstacle"] == "gptqmodel is not installed"
    assert "--store" in answer(environment, "list", "--help")
    assert "Run the line" not in answer(environment, "--help"), "the factory comes with the checkout"


@pytest.mark.slow
def test_the_wheel_pulls_from_a_folder_and_from_a_bucket(environment: Path, place: str, tmp_path: Path) -> None:
    store = open_store(place)
    made = published.publish(store, tmp_path / "made")
    published.stable(store, made)
    keys = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    to = str(tmp_path / "to")
    asked = ("pull", "m", "--channel", "stable", "--store", place, "--to", to, "--json", "-")
    said = json.loads(answer(environment, *asked, **keys))
    assert (said["manifest"], said["changed"]) == (made.digest, True)
    assert json.loads(answer(environment, "verify", to, "--json", "-"))["manifest"] == made.digest


@pytest.mark.slow
def test_what_the_wheel_pulls_is_opened_by_the_libraries_that_serve_it(
    environment: Path, tiny: Path, tmp_path: Path
) -> None:
    """The light environment pulls a real artifact of each format; the printed line opens it."""
    requests = {
        "bitsandbytes-nf4": {"method": "bitsandbytes", "type": "nf4"},
        "gguf-q8_0": {"method": "gguf", "type": "Q8_0"},
    }
    bench = Bench(tmp_path / "home", tiny, list(requests.values()))
    for variant in requests:
        artifact = bench.make(bench.jobs[variant])
        described = published.describe(artifact.files, "gguf-q8_0")
        spec = artifact.spec.canonical() | {"format": artifact.format}
        made = described.model_copy(update={"name": f"m/{variant}", "variant": spec})
        bench.store.commit(made, version(made, variant=variant))
    for where in ("format=safetensors", "runtime=llama.cpp"):
        said = answer(
            environment, "pull", "m", "--where", where, "--to", str(tmp_path / where), QUANTMILL_STORE=bench.store.uri
        )
        (load,) = [line.removeprefix("Load    ") for line in said.splitlines() if line.startswith("Load")]
        words = shlex.split(load)
        assert words[0] == "python"
        assert "every byte" in answer(environment, "verify", str(tmp_path / where))
        opened = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, cwd=tmp_path, timeout=120)
        assert opened.returncode == 0, opened.stderr[-2000:]
        assert ("'text': " in opened.stdout) == (where == "runtime=llama.cpp")
