"""The house's walls: who may import whom, read from the source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("quantmill", "tasks", "flows", "infra")
ENGINES = {
    "torch",
    "transformers",
    "accelerate",
    "optimum",
    "gptqmodel",
    "bitsandbytes",
    "hqq",
    "auto_round",
    "llama_cpp",
}
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
JOBS_SIDE = {
    "job",
    "job_kinds",
    "dequantize",
    "convert_gguf",
    "compare_long",
    "chat_templates",
    "tokenizer_check",
    "token_runs",
    "chat_check",
    "sentencepiece_model",
    "tokenizer_probe",
    "folder_source",
    "gptqmodel_engine",
    "stored_types",
    "hqq_loader",
    "measure",
    "score",
    "torch_metrics",
    "speed",
    "trace",
    "experts",
    "unpack",
}


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def tops(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def where(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=where)
def test_direction(path: Path) -> None:
    package, used = path.relative_to(ROOT).parts[0], tops(imports(path))
    below = {
        "quantmill": set[str](),
        "tasks": {"quantmill"},
        "flows": {"quantmill", "tasks"},
        "infra": {"quantmill", "flows"},
    }
    assert used & set(PACKAGES) <= below[package] | {package}
    if package != "flows":
        assert "prefect" not in used, "wiring belongs into flows/"
    if path.relative_to(ROOT).as_posix() not in (
        "tasks/register/runs.py",
        "tasks/register/models.py",
        "tasks/source/mlflow_shelf.py",
    ):
        assert "mlflow" not in used, "only these talk to MLflow: what is recorded there, and what is read there"


@pytest.mark.parametrize("path", MODULES, ids=where)
def test_engines_stay_on_the_job_s_side(path: Path) -> None:
    place = path.relative_to(ROOT)
    inside = place.parts[0] == "tasks" and (place.stem in JOBS_SIDE or place.parts[1] in ("quantizers", "runtimes"))
    if not inside:
        assert not tops(imports(path)) & ENGINES


@pytest.mark.parametrize("path", sorted((ROOT / "tasks").glob("*.py")), ids=where)
def test_stages_never_import_each_other(path: Path) -> None:
    stages = {
        "download",
        "calibrate",
        "convert",
        "long_text",
        "quantize",
        "evaluate",
        "gate",
        "register",
        "publish",
        "summarize",
    }
    if path.stem in stages:
        assert not {f"tasks.{stage}" for stage in stages} & imports(path)


@pytest.mark.parametrize("path", sorted((ROOT / "tasks").glob("*ers/*.py")), ids=where)
def test_quantizers_and_runtimes_do_not_know_each_other(path: Path) -> None:
    used = imports(path)
    assert not {name for name in used if name.startswith("tasks.quantizers")}
    assert path.parent.name == "runtimes" or not {name for name in used if name.startswith("tasks.runtimes")}


def test_the_contract_imports_no_engine_at_run_time() -> None:
    code = (
        "import sys, quantmill.cli, quantmill.recipe_file, quantmill.selection, quantmill.manifest;"
        "print([m for m in ('torch', 'transformers', 'prefect', 'mlflow', 'numpy') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_a_finished_run_is_found_without_prefect() -> None:
    code = (
        "import sys, flows.recall; print([m for m in ('torch', 'prefect', 'mlflow', 'matplotlib') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"


def test_modules_stay_small() -> None:
    long = {where(path): lines for path in MODULES if (lines := len(path.read_text().splitlines())) > 250}
    assert not long, "look for the seam"
