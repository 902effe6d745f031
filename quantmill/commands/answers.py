"""Shared by commands: the choice of the store, answers as table or JSON, and the text of an OSError."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table

from quantmill.commands.tables import screen
from quantmill.errors import NotFound, RequestError
from quantmill.files.paths import require_place
from quantmill.settings import load_settings
from quantmill.store import places
from quantmill.store.places import open_store
from quantmill.store.store import Store


def configured_store(uri: str = "") -> Store:
    """Return the store of `--store`, else the store of the settings.

    Raises:
        RequestError: `uri` is neither a path nor an address.
    """
    settings = load_settings()
    if uri:
        _require_place("--store", uri, addresses=True)
    return open_store(uri, settings.stage_days) if uri else places.configured_store(settings)


def existing_store(uri: str = "") -> Store:
    """Return the configured store for a command that reads; the store's folder must exist.

    Raises:
        NotFound: the store's folder does not exist.
        RequestError: `uri` is neither a path nor an address.
    """
    store = configured_store(uri)
    place = Path(store.uri)
    if (
        "://" not in store.uri and not place.is_dir() and not place.is_symlink()
    ):  # the store itself reports a dangling link
        named = "--store" if uri else "QUANTMILL_STORE"
        raise NotFound(f"{named}: {store.uri}: there is no such folder; the first `quantmill compress` makes the store")
    return store


def a_place(parameter: typer.CallbackParam, value: Path | None) -> Path | None:
    """Return the path of an option or argument unchanged, after a check.

    Raises:
        RequestError: the path begins with `~`, names a variable, or is an address.
    """
    if value is not None:
        _require_place(parameter.opts[0] if parameter.opts[0].startswith("-") else str(parameter.metavar), str(value))
    return value


def _require_place(name: str, text: str, addresses: bool = False) -> None:
    try:
        require_place(text, addresses)
    except ValueError as error:
        raise RequestError(f"{name}: {text}: {error}") from error


JsonFile = Annotated[
    Path | None,
    typer.Option("--json", callback=a_place, help="Also write the answer as JSON to this file (- for the screen)."),
]
StoreUri = Annotated[
    str, typer.Option("--store", metavar="URI", help="The store: a folder or s3://bucket/prefix. [QUANTMILL_STORE]")
]
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="A model that `quantmill list` names.")]


def answer(shown: Table | Group | str, document: Any, json_file: Path | None) -> None:
    """Print the answer, and write the document to `--json FILE`; `--json -` prints only the document."""
    check_json_file(json_file)
    text = json.dumps(document, indent=2, ensure_ascii=False)
    if json_file is not None and str(json_file) == "-":
        typer.echo(text)
        return
    if json_file is not None:
        json_file.write_text(text + "\n", encoding="utf-8")
    typer.echo(shown) if isinstance(shown, str) else screen().print(shown)


def check_json_file(json_file: Path | None) -> None:
    """Raise RequestError if `--json` names a file that could not be written, before anything runs."""
    if json_file is not None and (json_file.is_dir() or not json_file.absolute().parent.is_dir()):
        raise RequestError(f"--json: {json_file}: must be a file in a folder that exists, or - for the screen")


def require_text(arguments: list[str]) -> None:
    """End the command with status 2 if an argument is not text in the locale's encoding.

    Such an argument could not even be printed.
    """
    for argument in arguments[1:]:
        if any("\ud800" <= sign <= "\udfff" for sign in argument):
            shown = argument.encode("utf-8", "backslashreplace").decode()
            typer.echo(f"error: {shown}: an argument that is not text in {sys.getfilesystemencoding()}", err=True)
            sys.exit(RequestError.exit_code)


def told(error: OSError) -> str:
    """Return an OSError as one line; of two paths the message names the second, the target."""
    place = error.filename if error.filename2 is None else error.filename2
    words = error.strerror or " ".join(str(error).split()) or type(error).__name__
    return words if place is None else f"{place}: {words}"
