"""A new method is one module of facts and one of work: a toy method works everywhere with these two.

Its name is random.
"""

import json
import os
import secrets
import shutil
import string
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
COPIED = ("quantmill", "tasks", "flows", "tests/tasks/quantize", "requirements.lock", "pyproject.toml")
FACTS = '''"""Rounds to a grid, stored in bf16."""

from quantmill.recipe.method_row import Memory, Method, steady
from quantmill.recipe.options import MethodOptions, choice
from quantmill.recipe.programs import Program, ran


class Options(MethodOptions):
    """How coarse the grid is."""

    NAME_step: float = choice(0.5, "Step of the grid.", suffix="step", ge=0.001, le=1.0)


METHOD = Method(
    name="NAME",
    position=50,
    label="NAME",
    title="Rounds to a grid.",
    source="this test",
    bits=(16,),
    default_bits=(16,),
    choices=Options,
    calibrated=False,
    format="safetensors",
    runtime="transformers",
    thread_dependent=False,
    processor_dependent=False,
    engines=("torch", "safetensors"),
    programs=(ran(Program("transformers", "transformers", "5", "2026-11")),),
    fine_tuning="yes",
    deterministic=True,
    stored_bits=lambda bits, _kind, _options: bits,
    memory=Memory(libraries=7e8, per_weight=2.5),
    cost=steady(7),
)
'''
WORK = '''"""Rounds every matrix to a grid, in bf16."""

from quantmill.recipe.methods.NAME import Options
from quantmill.records.artifact import QuantizedTensor
from tasks.model import tensors
from tasks.quantize.work import Work


def quantize(work: Work[Options]) -> list[QuantizedTensor]:
    from safetensors.torch import load_file, save_file

    step = work.options.NAME_step / 1024
    made = {}
    for path in work.source.glob("*.safetensors"):
        made |= {name: ((part.float() / step).round() * step).bfloat16() for name, part in load_file(path).items()}
    save_file(made, work.out / "model.safetensors", metadata={"format": "pt"})
    return tensors.account(work.source, work.out, scheme="bf16")
'''
PINS = "numpy==1.0\nsafetensors==1.0\nonly-there==1.0\ntorch==1.0\n"
DESCRIPTION = """[project]
name = "NAME"
version = "0"
dependencies = []

[tool.quantmill]
purpose = "a test"
disk_mb = 1
minutes = 1
"""
ELSEWHERE = """
import json, sys
from pathlib import Path

from flows.job_keys import EngineWork, artifact_key, measured_by
from flows.pools.pools import Pool, candidates
from flows.prepare import require_environments
from quantmill.errors import EnvironmentNotReady, RequestError
from quantmill.recipe.recipe_file import parse_recipe
from quantmill.settings import Settings
from tasks import installed

name, home = sys.argv[1:]
recipe = parse_recipe({"model": {"source": "x"}, "variants": [{"method": name}]})
(spec,) = recipe.expand()
lock, said = installed.lock_of(spec.row.environment), {"keys": [], "refused": []}
for old, new in (("torch==1.0", "torch==2.0"), ("torch==2.0", "torch==3.0")):
    lock.write_text(lock.read_text().replace(old, new))
    installed.pins.cache_clear()
    said["keys"].append(artifact_key(spec, "0", "m", None, EngineWork("cpu", 1, "", "")))
said["measured"] = measured_by(spec.runtime(0), spec.maker.engines_beside)["engines"]
plain, ready = (Pool(name=pool, memory="9GB", environments=made) for pool, made in (("plain", ()), ("ready", (name,))))
said["pools"] = [pool.name for pool in candidates(spec, 1, "auto", [plain, ready], spec.row.environment)]
for work in (
    lambda: candidates(spec, 1, "auto", [plain], spec.row.environment),
    lambda: require_environments(recipe, Settings(home=Path(home))),
):
    try:
        work()
    except (RequestError, EnvironmentNotReady) as error:
        said["refused"].append(str(error))
print(json.dumps(said))
"""
SCRIPT = """
import json, sys
from pathlib import Path

from flows.pools.pools import Pool, candidates
from quantmill.recipe.methods import METHODS
from quantmill.recipe.recipe_file import editor_schema, parse_recipe
from quantmill.records import planning
from quantmill.records.report import Outcome
from quantmill.records import loading, selection
from tasks.publish import manifests
from tasks.quantize import require
from tests import samples
from tests.tasks.quantize import contract
from tests.tasks.quantize.bench import Bench

name, home, model = sys.argv[1:]
home, model = Path(home), Path(model)
asked = {"method": name, f"{name}_step": [0.5, 0.25]}
recipe = parse_recipe({"model": {"source": str(model)}, "variants": [asked]})
plain, fine = recipe.expand()
said = {"names": [plain.name, fine.name], "canonical": fine.canonical(), "methods": list(METHODS)}
said["schema"] = f"{name}_step" in editor_schema()["$defs"]["VariantRequest"]["properties"]
large, small = (Pool(name=pool, memory=size, methods=(name,)) for pool, size in (("large", "9GB"), ("small", "1")))
said["pool"] = [pool.name for pool in candidates(fine, planning.memory_bytes(fine, 1000), "auto", [large, small])]
said["cost"] = planning.cost(fine)
require(recipe.expand(), model)
bench = Bench(home, model, [asked])
artifacts = {job.name: contract.fulfilled(bench, job, {"bf16"}) for job in bench.jobs.values()}
said["generated"] = contract.generated(bench, bench.jobs.values(), home / "opened")
job = bench.jobs[fine.name]
report = samples.report(fine.name).model_copy(update={"runtime": job.runtime, "runtime_version": "0"})
manifest = manifests.with_card(
    manifests.build_manifest(bench.recipe, job, Outcome(name=fine.name, artifact=artifacts[fine.name], report=report)),
    bench.store,
)
bench.store.fetch(manifest.files, home / "published")
said["card"] = (home / "published" / "README.md").read_text()
said["runtimes"] = selection.of_manifest(manifest).runtimes
said["line"] = loading.how_to_load(Path("x"), manifest)
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A copy of the code with a method more, and the method's name."""
    root, name = tmp_path_factory.mktemp("tree"), "".join(secrets.choice(string.ascii_lowercase) for _ in range(8))
    for part in COPIED:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(ROOT / part, root / part)
    for part in ("__init__.py", "samples.py", "tasks/__init__.py"):
        if (ROOT / "tests" / part).is_file():
            shutil.copyfile(ROOT / "tests" / part, root / "tests" / part)
    for folder, text in (("quantmill/recipe/methods", FACTS), ("tasks/quantize/methods", WORK)):
        (root / folder / f"{name}.py").write_text(text.replace("NAME", name))
    return root, name


def run(root: Path, *command: str) -> str:
    surroundings = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, *command], cwd=root, env=surroundings, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_method_needs_two_modules(tree: tuple[Path, str], tiny: Path, tmp_path: Path) -> None:
    root, name = tree
    said: dict[str, Any] = json.loads(run(root, "-c", SCRIPT, name, str(tmp_path), str(tiny)).splitlines()[-1])
    assert said["names"] == [f"{name}-16bit", f"{name}-16bit-step0.25"]
    assert said["canonical"] == {"method": name, "bits": 16, f"{name}_step": 0.25}
    assert said["methods"][-2:] == [name, "imported"]
    assert said["schema"]
    assert (said["pool"], said["cost"]) == (["large"], 7)
    assert set(said["generated"]) == set(said["names"])
    assert f"through `{name}` (16 bits, {name}_step 0.25)" in said["card"]
    assert "- transformers 5: ran, 2026-11" in said["card"]
    assert said["runtimes"] == ["transformers"]
    assert "AutoModelForCausalLM" in said["line"]
    listed = json.loads(run(root, "-c", "from quantmill.cli import app; app()", "methods", "--json", "-"))
    assert name in {row["name"] for row in listed["methods"]}


def test_a_method_may_live_in_an_environment(tree: tuple[Path, str], tmp_path: Path) -> None:
    root, name = tree[0], f"{tree[1]}elsewhere"
    (root / "environments" / name).mkdir(parents=True)
    (root / "environments" / name / "pyproject.toml").write_text(DESCRIPTION.replace("NAME", name))
    (root / "environments" / name / "requirements.lock").write_text(PINS)
    facts = FACTS.replace("NAME", name).replace("engines=(", f'environment="{name}",\n    engines=("only-there", ')
    (root / "quantmill" / "recipe" / "methods" / f"{name}.py").write_text(facts)
    said: dict[str, Any] = json.loads(run(root, "-c", ELSEWHERE, name, str(tmp_path)).splitlines()[-1])
    assert len(set(said["keys"])) == 2, "the versions of its lock are in the key"
    assert "transformers" in said["measured"] and "only-there" not in said["measured"], "measured in the factory"
    assert said["pools"] == ["ready"]
    assert f"in the environment {name}" in said["refused"][0]
    assert f"{name}: this environment is not made on this machine" in said["refused"][1]


@pytest.mark.parametrize(
    "fact",
    ["memory=Memory(libraries=7e8, per_weight=2.5),", "cost=steady(7),", "choices=Options,", "calibrated=False,"],
)
def test_a_fact_that_is_missing_is_missed_at_once(tree: tuple[Path, str], fact: str) -> None:
    root, name = tree
    module = root / "quantmill" / "recipe" / "methods" / f"{name}.py"
    whole = module.read_text()
    module.write_text(whole.replace(fact, ""))
    try:
        done = subprocess.run(
            [sys.executable, "-c", "import quantmill.recipe.methods"], cwd=root, capture_output=True, text=True
        )
    finally:
        module.write_text(whole)
    assert done.returncode
    assert f"{fact.partition('=')[0]}\n  Field required" in done.stderr
