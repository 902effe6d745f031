"""The commands about environments, as a person types them, and `gc` in a checkout."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from flows import environment_commands
from quantmill.commands import collect
from quantmill.errors import EnvironmentFailed, EnvironmentNotReady
from tasks.environments import made
from tests.toy_environment import Described, described_in


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Described]:
    monkeypatch.setenv("QUANTMILL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("QUANTMILL_ENVIRONMENTS", str(tmp_path / "made"))
    with described_in(tmp_path) as described:
        described.add_package("1.0")
        described.describe("toy", {"toy-engine": "1.0"}, 'imports = ["toy_engine"]', 'needed_by = ["a test"]')
        yield described


def run(*words: str) -> Any:
    """Return the JSON that a command answers, or raise what it raised."""
    app = typer.Typer()
    collect.add_to(app)
    environment_commands.add_to(app)
    done = CliRunner().invoke(app, [*words, "--json", "-"])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_life_from_the_command_line(toys: Described, tmp_path: Path) -> None:
    (row,) = run("environments", "list")["environments"]
    assert row == {"name": "toy", "purpose": "a test", "needed_by": ["a test"], "made": False, "size_bytes": 10**6}
    with pytest.raises(EnvironmentNotReady, match="toy: this environment is not made in"):
        run("environments", "check", "toy")

    answered = run("environments", "create", "toy")
    assert (answered["made"], answered["folder"]) == (True, str(tmp_path / "made"))
    assert run("environments", "check", "toy")["problems"] == []
    (row,) = run("environments", "list")["environments"]
    assert row["made"] and row["size_bytes"] == answered["size_bytes"] != 10**6

    (module,) = made.place_of("toy", toys.root).glob("lib/python3*/site-packages/toy_engine.py")
    module.unlink()
    with pytest.raises(EnvironmentFailed, match="toy: 1 problems; `quantmill environments create toy`"):
        run("environments", "check", "toy")


def test_gc_names_and_removes_environments(toys: Described, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    run("environments", "create", "toy")
    place = made.place_of("toy", toys.root)
    (place / made.RECORD).unlink()
    for words in (["--dry-run"], []):
        (row,) = run("gc", "--store", str(tmp_path / "store"), *words)["removed"]
        assert (row["kind"], row["key"], row["size_bytes"] > 1000) == ("environments", place.name, True)
        assert place.exists() == bool(words)
