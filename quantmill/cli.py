"""The command line: the consumers' commands and, in a checkout, the factory's commands.

Errors are one line on standard error. Exit codes: 0 done, 2 the request is wrong, 3 no variant was accepted, 4 an artifact
failed verification, 1 anything else.
"""

import importlib.metadata
import importlib.util
import shlex
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.table import Table

from quantmill import __version__
from quantmill.commands import client as consumer_commands
from quantmill.commands import collect as collect_command
from quantmill.commands import store as store_commands
from quantmill.commands import watch as watch_command
from quantmill.commands.answers import JsonFile, a_place, answer, require_text, told
from quantmill.commands.tables import printable
from quantmill.errors import QuantmillError, with_advice
from quantmill.machine import disk
from quantmill.recipe.methods import AS_IT_IS, METHODS, Method
from quantmill.settings import load_settings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Quantmill: compress language models, measure every result, publish what passes.",
)
key_commands = typer.Typer(no_args_is_help=True, help="Keys that sign published versions.")
app.add_typer(key_commands, name="keys")
store_commands.add_to(app)
consumer_commands.add_to(app)
watch_command.add_to(app)
collect_command.add_to(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Compress language models, measure every result, publish what passes."""


@app.command(epilog="Example: quantmill methods --json methods.json")
def methods(json_file: JsonFile = None) -> None:
    """List every method: bits, options, loaders, calibration, training, and whether it can run here."""
    rows = [
        row.model_dump(mode="json") | {"usable": not (why := obstacle(row)), "obstacle": why}
        for row in METHODS.values()
    ]
    table = Table("method", "bits or types", "options", "format", "loaded by", "calibrated", "trainable", "usable here")
    for column in (0, 3, 5):
        table.columns[column].no_wrap = True
    for row in METHODS.values():
        table.add_row(
            row.name,
            ", ".join(row.widths) or AS_IT_IS,
            ", ".join(f"{option.name}={str(option.default).lower()}" for option in row.options),
            row.format,
            ", ".join(row.loaders),
            "yes" if row.calibrated else "no",
            row.fine_tuning,
            obstacle(row) or "yes",
        )
    answer(table, {"methods": rows}, json_file)


@key_commands.command("create", epilog="Example: quantmill keys create --out keys --name release")
def create_keys(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", callback=a_place, help="Folder for the pair.")] = Path(
        "keys"
    ),
    name: Annotated[str, typer.Option("--name", help="Name of the two files.")] = "quantmill",
) -> None:
    """Make a key pair for signing published versions.

    DIR/NAME.private.pem is readable by this user alone; DIR/keyring/NAME.pem is for consumers.
    """
    from quantmill import signing

    pair = signing.create(out, name)
    typer.echo(f"Key {pair.keyid}")
    typer.echo(f"  sign published versions:  export QUANTMILL_SIGNING_KEY={shlex.quote(str(pair.private.absolute()))}")
    typer.echo(
        f"  trust it as a consumer:   export QUANTMILL_KEYRING={shlex.quote(str(pair.public.parent.absolute()))}"
    )


def obstacle(row: Method) -> str:
    """Return why a method cannot run in this installation; empty: it can."""
    for package in row.engines:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return f"{package} is not installed"
    return ""


def _add_factory() -> None:
    """Add the commands of the entry point `quantmill.commands`, in a checkout.

    Only a package beside this one counts: a stranger's package may have the same name.
    """
    root = Path(__file__).resolve().parent.parent
    for point in importlib.metadata.entry_points(group="quantmill.commands"):
        package = point.module.partition(".")[0]
        if not (root / package).is_dir() or not (root / "deployments").is_dir():
            continue  # an installed wheel
        found = importlib.util.find_spec(package)
        if found and found.origin and Path(found.origin).resolve().is_relative_to(root / package):
            point.load()(app)
        else:
            where = found.origin if found else "nothing"
            typer.echo(f"warning: {printable(str(where))} hides the factory's package {package}", err=True)


def _say_full(error: BaseException) -> NoReturn:
    full = disk.told(error, Path.cwd())
    typer.echo(f"error: {printable(with_advice(type(full).__name__, str(full)))}", err=True)
    sys.exit(full.exit_code)


def main() -> None:
    """Run the command line."""
    require_text(sys.argv)
    _add_factory()
    try:
        app()
    except QuantmillError as error:
        typer.echo(f"error: {printable(with_advice(type(error).__name__, str(error)))}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if disk.is_full(error):
            _say_full(error)
        typer.echo(f"error: {printable(told(error))}", err=True)
        sys.exit(1)
    except Exception as error:
        if disk.is_full(error):
            _say_full(error)
        if load_settings().debug:
            raise
        words = " ".join(str(error).split())[:300]
        typer.echo(f"error: unexpected {type(error).__name__}: {words}; QUANTMILL_DEBUG=1 shows where", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
