"""The walls between rooms: which room may import which, and through which door, read from the source."""

import ast
import importlib
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from quantmill.recipe.methods import METHODS
from quantmill.recipe.schemes import SCHEMES

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
ROOMS = {
    # the contract
    "quantmill.files": {"quantmill.errors"},
    "quantmill.machine": {"quantmill.errors"},
    "quantmill.s3": {"quantmill.errors"},
    "quantmill.recipe": {"quantmill.errors", "quantmill.files", "quantmill.s3"},
    "quantmill.records": {"quantmill.errors", "quantmill.files", "quantmill.recipe"},
    "quantmill.signing": {"quantmill.errors", "quantmill.files", "quantmill.machine", "quantmill.records"},
    "quantmill.store": {
        "quantmill.errors",
        "quantmill.files",
        "quantmill.machine",
        "quantmill.records",
        "quantmill.s3",
        "quantmill.settings",
    },
    "quantmill.client": {
        "quantmill.errors",
        "quantmill.files",
        "quantmill.machine",
        "quantmill.recipe",
        "quantmill.records",
        "quantmill.signing",
        "quantmill.store",
    },
    "quantmill.commands": {
        "quantmill.client",
        "quantmill.errors",
        "quantmill.files",
        "quantmill.records",
        "quantmill.settings",
        "quantmill.signing",
        "quantmill.store",
    },
    # what every job uses
    "tasks.environments": {"tasks.installed"},
    "tasks.sandbox": {"tasks.environments", "tasks.installed"},
    "tasks.metrics": set[str](),
    "tasks.model": {"tasks.engine_code"},
    "tasks.support": {"tasks.model", "tasks.engine_code"},
    "tasks.tokenizer": {"tasks.model"},
    "tasks.engines": {"tasks.model", "tasks.sandbox"},
    "tasks.runtimes": {"tasks.engines", "tasks.metrics", "tasks.model", "tasks.sandbox"},
    "tasks.tracking": set[str](),
    # the stages
    "tasks.source": {
        "tasks.hub",
        "tasks.installed",
        "tasks.model",
        "tasks.runtimes",
        "tasks.sandbox",
        "tasks.tokenizer",
        "tasks.tracking",
    },
    "tasks.text": {
        "tasks.builtin_text",
        "tasks.hub",
        "tasks.installed",
        "tasks.sandbox",
        "tasks.source",
        "tasks.tokenizer",
    },
    "tasks.convert": {
        "tasks.builtin_text",
        "tasks.installed",
        "tasks.metrics",
        "tasks.model",
        "tasks.runtimes",
        "tasks.sandbox",
        "tasks.source",
        "tasks.support",
        "tasks.tokenizer",
    },
    "tasks.quantize": {
        "tasks.engines",
        "tasks.installed",
        "tasks.model",
        "tasks.processor",
        "tasks.sandbox",
        "tasks.source",
        "tasks.support",
        "tasks.tokenizer",
    },
    "tasks.evaluate": {"tasks.arithmetic", "tasks.engines", "tasks.metrics", "tasks.runtimes", "tasks.sandbox"},
    "tasks.judge": {"tasks.gibberish", "tasks.marks"},
    "tasks.publish": {"tasks.hub", "tasks.installed", "tasks.marks", "tasks.model", "tasks.processor", "tasks.report"},
    "tasks.register": {"tasks.report", "tasks.tracking"},
    # beside the line
    "tasks.report": set[str](),
    "tasks.landing": {"tasks.model", "tasks.source"},
    "flows.pools": set[str](),
    "flows.server": {"flows.pools", "flows.stages"},
    "flows.show": set[str](),
}
"""Room -> the rooms and modules of its own package that it may import; `quantmill` is below `tasks`, which is below `flows`."""
STAGES = ("source", "text", "convert", "quantize", "evaluate", "judge", "publish", "register")
WITH_ENGINES = (
    "*/job.py",
    "tasks/engines/*",
    "tasks/runtimes/*",
    "tasks/quantize/methods/*",
    "tasks/sandbox/here.py",
    "tasks/metrics/tensors.py",
    "tasks/model/experts.py",
    "tasks/model/gguf.py",
    "tasks/model/stored_types.py",
    "tasks/source/dequantize.py",
    "tasks/source/take_in.py",
    "tasks/source/unpack.py",
    "tasks/tokenizer/*",
    "tasks/convert/compare_long.py",
    "tasks/convert/converter.py",
    "tasks/evaluate/score.py",
    "tasks/evaluate/speed.py",
    "tasks/evaluate/trace.py",
)
"""Where engines may be imported: inside a job."""
BY_NAME = {
    "quantmill/recipe/schemes/__init__.py": "the facts of every scheme",
    "flows/pools/__init__.py": "a door whose modules import Prefect",
    "tasks/sandbox/child.py": "the job of a room",
    "quantmill/recipe/methods/__init__.py": "the facts of every method",
    "tasks/quantize/work.py": "the module of a method",
    "tasks/runtimes/__init__.py": "the module of a library",
    "tasks/source/places.py": "the module of a scheme",
    "tasks/tokenizer/probe.py": "Python's own sources, as text",
}
"""Who may import a module by a name that is made at run time, and which."""
FOR_CONSUMERS = {"quantmill.client.Resolved"}
"""Offered to programs of others, who import the wheel."""
LONG: dict[str, str] = {}
"""Module of more than 250 lines -> why; 350 are the end."""


@cache
def imports(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def tops(names: frozenset[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def where(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def is_module(name: str) -> bool:
    place = ROOT / name.replace(".", "/")
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


def room_of(path: Path) -> str:
    """Return the room that a module stands in; a module beside the rooms is one by itself."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts[:2])


def used_by(path: Path) -> set[str]:
    """Return the rooms, and the modules beside rooms, that a module imports: its own not."""
    found = {".".join(name.split(".")[:2]) for name in imports(path) if name.partition(".")[0] in PACKAGES}
    return {name for name in found if is_module(name)} - {room_of(path)}


def offered(room: str) -> tuple[str, ...]:
    """Return the names in the door's `__all__`."""
    tree = ast.parse((ROOT / room.replace(".", "/") / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            return tuple(ast.literal_eval(node.value))
    return ()


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
    if room_of(path) not in ("tasks.register", "tasks.tracking") and path.name != "mlflow_shelf.py":
        assert "mlflow" not in used, "only these talk to MLflow: what is recorded there, and what is read there"


@pytest.mark.parametrize("path", MODULES, ids=where)
def test_rooms_know_no_others_than_the_table_says(path: Path) -> None:
    package, room = path.relative_to(ROOT).parts[0], room_of(path)
    if room in ROOMS:
        assert {name for name in used_by(path) if name.startswith(f"{package}.")} <= ROOMS[room]
    for stage in STAGES:
        if room == f"tasks.{stage}":
            assert not used_by(path) & {f"tasks.{other}" for other in STAGES} - {"tasks.source"}


def test_every_room_is_in_the_table_and_there_is_no_circle() -> None:
    rooms = {
        room_of(path.parent)
        for path in MODULES
        if path.name == "__init__.py"
        and len(path.relative_to(ROOT).parts) == 3
        and not path.is_relative_to(ROOT / "infra")
    }
    assert rooms == set(ROOMS)
    left = {room: allowed & rooms for room, allowed in ROOMS.items()}
    while ends := [room for room, allowed in left.items() if not allowed]:
        left = {room: allowed - set(ends) for room, allowed in left.items() if room not in ends}
    assert not left, "rooms that import each other"


@pytest.mark.parametrize("path", MODULES, ids=where)
def test_outsiders_come_through_the_door(path: Path) -> None:
    """Outsiders import only what `__all__` names: from the door, and from the modules that it names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        room, inside = ".".join(node.module.split(".")[:2]), ".".join(node.module.split(".")[2:])
        if room not in ROOMS or room == room_of(path):
            continue
        asked = [inside.partition(".")[0]] if inside else [alias.name for alias in node.names]
        assert set(asked) <= set(offered(room)), f"{node.module}: {asked} is behind the door"


@pytest.mark.parametrize("room", ROOMS)
def test_a_door_offers_a_few_names_that_are_used(room: str) -> None:
    names = offered(room)
    assert 0 < len(names) <= 8
    door = importlib.import_module(room)
    outside = [path for path in MODULES if room_of(path) != room]
    for name in names:
        if not is_module(f"{room}.{name}"):
            assert hasattr(door, name)
        used = any(f"{room}.{name}" in imports(path) or _asks(path, room, name) for path in outside)
        assert used or f"{room}.{name}" in FOR_CONSUMERS, f"{name} is used nowhere else"


def _asks(path: Path, room: str, name: str) -> bool:
    """Return whether a module that imports the room itself uses `room.name`."""
    leaf = room.rpartition(".")[2]
    return room in imports(path) and f"{leaf}.{name}" in path.read_text(encoding="utf-8")


def test_doors_load_no_engine_prefect_or_mlflow() -> None:
    heavy = (*ENGINES, "prefect", "mlflow", "matplotlib", "huggingface_hub", "gguf", "pyarrow")
    code = f"import sys, {', '.join(ROOMS)}; print([m for m in {heavy!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("path", MODULES, ids=where)
def test_engines_stay_on_the_job_s_side(path: Path) -> None:
    if not any(path.relative_to(ROOT).match(pattern) for pattern in WITH_ENGINES):
        assert not tops(imports(path)) & ENGINES


@pytest.mark.parametrize("path", MODULES, ids=where)
def test_modules_are_named_where_they_are_imported(path: Path) -> None:
    assert "import_module(" not in path.read_text(encoding="utf-8") or where(path) in BY_NAME


@pytest.mark.parametrize("path", sorted((ROOT / "tasks" / "quantize" / "methods").glob("*.py")), ids=where)
def test_methods_do_not_know_each_other(path: Path) -> None:
    known = {name for name in imports(path) if name.startswith("tasks.quantize.")}
    assert {name.removesuffix(".Work") for name in known} <= {"tasks.quantize.work"}


def test_every_method_and_every_scheme_is_complete() -> None:
    """Facts and work stand in two folders, a module of the same name in each. `imported` makes nothing."""

    def modules(folder: str) -> set[str]:
        return {path.stem for path in (ROOT / folder).glob("*.py")} - {"__init__"}

    assert modules("quantmill/recipe/methods") - {"imported"} == modules("tasks/quantize/methods")
    assert modules("quantmill/recipe/schemes") == modules("tasks/source/schemes")
    for path in (ROOT / "tasks/quantize/methods").glob("[!_]*.py"):
        assert "\ndef quantize(work: Work[" in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("path", MODULES, ids=where)
def test_a_method_is_named_in_its_own_modules_alone(path: Path) -> None:
    """Everything else asks METHODS. A library of the same name has a module of that name."""
    own = set(METHODS) - {"baseline", "imported", "gguf"}
    strings = {node.value for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Constant)}
    assert strings & own <= {path.stem}


@pytest.mark.parametrize("path", MODULES, ids=where)
def test_a_scheme_is_named_in_its_own_modules_alone(path: Path) -> None:
    """All other code asks SCHEMES; code may write out an address.

    `s3://` also belongs to stores and exports.
    """
    own = {row.prefix for row in SCHEMES.values() if row.prefix}
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    written = {part for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    strings = {node.value for node in nodes if isinstance(node, ast.Constant) and node not in written}
    assert strings & own <= ({"s3://"} if where(path) == "quantmill/s3/address.py" else {f"{path.stem}://"})


def test_the_contract_imports_no_engine_at_run_time() -> None:
    code = (
        "import sys, quantmill.cli, quantmill.recipe.recipe_file, quantmill.records.selection, quantmill.records.manifest;"
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


def test_docstrings_begin_with_a_short_line() -> None:
    """ruff can limit every line of a docstring, not the first alone: 100 characters."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = []
    for folder in (*PACKAGES, "benchmarks", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, kinds)]
            firsts = [(ast.get_docstring(node, clean=False) or "").partition("\n")[0] for node in nodes]
            found += [(where(path), first) for first in firsts if len(first) > 100]
    assert found == []


def test_modules_stay_small() -> None:
    long = {where(path): lines for path in MODULES if (lines := len(path.read_text().splitlines())) > 250}
    assert set(long) == set(LONG), "look for the seam"
    assert all(lines <= 350 for lines in long.values())


def test_the_tests_stand_in_the_same_rooms_and_know_no_other_test_file() -> None:
    rooms = {room.replace(".", "/") for room in ROOMS} | {"flows", "infra", "benchmarks", "whole", ""}
    for path in (ROOT / "tests").rglob("test_*.py"):
        place = path.parent.relative_to(ROOT / "tests").as_posix()
        assert (place if place != "." else "") in rooms, path
        assert not {name for name in imports(path) if ".test_" in name and name.startswith("tests.")}, path
