"""The commands `environments list|create|check`, and what `gc` removes of environments."""

from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from flows.show.progress import say, show_progress
from quantmill.commands import collect as gc
from quantmill.commands.answers import JsonFile, answer, check_json_file
from quantmill.commands.tables import Column, fitting, screen
from quantmill.errors import EnvironmentFailed, EnvironmentNotReady
from quantmill.settings import load_settings
from quantmill.store.collect import Rules
from tasks import environments

commands = typer.Typer(no_args_is_help=True, help="Environments of their own for engines and servers that need one.")
Name = Annotated[str, typer.Argument(metavar="NAME", help="An environment that `quantmill environments list` names.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module, and let `gc` remove unused environments."""
    app.add_typer(commands, name="environments")
    gc.BESIDE["environments"] = _collect


@dataclass
class Row:
    """An environment as `--json` writes it."""

    name: str
    purpose: str
    needed_by: list[str]
    made: bool
    size_bytes: int
    """The measured size of a made environment, else the size that its `pyproject.toml` states."""


def _row(environment: environments.Environment) -> Row:
    try:
        made = environments.find_made(environment.name, load_settings().environments_folder)
    except EnvironmentFailed as error:  # `create` makes the environment again
        say(str(error))
        made = None
    size = made.size_bytes if made else environment.disk_mb * 10**6
    return Row(environment.name, environment.purpose, list(environment.needed_by), made is not None, size)


@commands.command("list", epilog="Example: quantmill environments list")
def list_all(json_file: JsonFile = None) -> None:
    """List all environments: purpose, whether made on this machine, disk space, and what needs them."""
    rows = [_row(environment) for environment in environments.read_all()]
    folder = load_settings().environments_folder
    columns = [
        Column("environment", right=False),
        Column("made"),
        Column("MB"),
        Column("for", 1, False),
        Column("needed by", 2, False),
    ]
    cells = [
        [row.name, "yes" if row.made else "no", f"{row.size_bytes / 1e6:,.0f}", row.purpose, ", ".join(row.needed_by)]
        for row in rows
    ]
    table = fitting(f"Environments in {folder}", columns, cells, screen().width)
    answer(table, {"folder": str(folder), "environments": [asdict(row) for row in rows]}, json_file)


@commands.command(epilog="Example: quantmill environments create llama.cpp")
def create(name: Name, json_file: JsonFile = None) -> None:
    """Make an environment from its lock, or keep a working environment made from the same lock."""
    check_json_file(json_file)
    environment, folder = environments.read(name), load_settings().environments_folder
    with show_progress():
        if environments.find_made(name, folder) is None:
            say(
                f"{name}: takes about {environment.disk_mb:,} MB and {environment.minutes:g} minutes in {folder}; "
                f"packages: {len(environment.pins)}"
            )
        made = environments.create(environment, folder, say)
    words = f"{name}: made in {made.seconds:g} s, {made.size_bytes / 1e6:,.0f} MB, {folder}"
    answer(words, asdict(_row(environment)) | {"folder": str(folder)}, json_file)


@commands.command(epilog="Example: quantmill environments check cards")
def check(name: Name, json_file: JsonFile = None) -> None:
    """Check a made environment: installed versions, imports and programs.

    Exit code: 1 if a check fails.
    """
    check_json_file(json_file)
    environment, folder = environments.read(name), load_settings().environments_folder
    if environments.find_made(name, folder) is None:
        raise EnvironmentNotReady(f"{name}: this environment is not made in {folder}")
    wrong = environments.problems(environment, folder)
    words = f"{name}: {len(environment.pins)} packages are as the lock says; {_worked(environment)}"
    answer(words if not wrong else "\n".join(wrong), asdict(_row(environment)) | {"problems": wrong}, json_file)
    if wrong:
        raise EnvironmentFailed(f"{name}: {len(wrong)} problems; `quantmill environments create {name}` makes it again")


def _worked(environment: environments.Environment) -> str:
    return "works: " + ", ".join((*(f"import {module}" for module in environment.imports), *environment.programs))


def _collect(rules: Rules, dry_run: bool) -> list[tuple[str, int]]:
    return environments.collect(load_settings().environments_folder, rules.retention_s, dry_run)
