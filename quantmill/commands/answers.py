"""What commands share: the store that is asked for, answers as a table or as JSON, and what is told of an OSError."""

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
    """Return the store that was asked for, else the one that the settings name.

    Raises:
        RequestError: what was asked for is no place.
    """
    settings = load_settings()
    if uri:
        _require_place("--store", uri, addresses=True)
    return open_store(uri, settings.stage_days) if uri else places.configured_store(settings)


def existing_store(uri: str = "") -> Store:
    """Return that store for a command that reads: a folder that is not there is no empty store.

    Raises:
        NotFound: the store's folder does not exist.
        RequestError: what was asked for is no place.
    """
    store = configured_store(uri)
    place = Path(store.uri)
    if (
        "://" not in store.uri and not place.is_dir() and not place.is_symlink()
    ):  # of a link the store says where it leads
        named = "--store" if uri else "QUANTMILL_STORE"
        raise NotFound(f"{named}: {store.uri}: there is no such folder; the first `quantmill compress` makes the store")
    return store


def a_place(parameter: typer.CallbackParam, value: Path | None) -> Path | None:
    """Return the path that an option or argument names, as it is.

    Raises:
        RequestError: it begins with `~`, names a variable, or is an address.
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
    """Print a table or lines, or the document where `-` asks for it there; write the document where a file is named."""
    check_json_file(json_file)
    text = json.dumps(document, indent=2, ensure_ascii=False)
    if json_file is not None and str(json_file) == "-":
        typer.echo(text)
        return
    if json_file is not None:
        json_file.write_text(text + "\n", encoding="utf-8")
    typer.echo(shown) if isinstance(shown, str) else screen().print(shown)


def check_json_file(json_file: Path | None) -> None:
    """Raise RequestError where the document could not be written, before anything runs."""
    if json_file is not None and (json_file.is_dir() or not json_file.absolute().parent.is_dir()):
        raise RequestError(f"--json: {json_file}: must be a file in a folder that exists, or - for the screen")


def require_text(arguments: list[str]) -> None:
    """End the command with status 2 where an argument is no text in the locale's encoding: it could not even be printed."""
    for argument in arguments[1:]:
        if any("\ud800" <= sign <= "\udfff" for sign in argument):
            shown = argument.encode("utf-8", "backslashreplace").decode()
            typer.echo(f"error: {shown}: an argument that is no text in {sys.getfilesystemencoding()}", err=True)
            sys.exit(RequestError.exit_code)


def told(error: OSError) -> str:
    """Return an OSError in a line. Of two names the second counts: what is copied, renamed or linked goes there."""
    place = error.filename if error.filename2 is None else error.filename2
    words = error.strerror or " ".join(str(error).split()) or type(error).__name__
    return words if place is None else f"{place}: {words}"
