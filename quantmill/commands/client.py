"""The consumers' commands `pull` and `verify`."""

import shlex
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from quantmill import client, signing
from quantmill.client.pulled import Place, version_folder
from quantmill.client.tree import read_records
from quantmill.client.where import FIELDS, asked_program
from quantmill.commands.answers import JsonFile, ModelName, StoreUri, a_place, answer, check_json_file, existing_store
from quantmill.errors import RequestError
from quantmill.records.loading import how_to_load
from quantmill.records.selection import Goal
from quantmill.settings import load_settings
from quantmill.signing import Keyring

To = Annotated[
    Path,
    typer.Option(
        "--to",
        metavar="DIR",
        callback=a_place,
        help="A new folder, or a folder that this model was pulled into before.",
    ),
]
KeyringFolder = Annotated[
    Path | None,
    typer.Option(
        "--keyring",
        metavar="DIR",
        callback=a_place,
        help="Folder of public keys; versions without their signature are refused. [QUANTMILL_KEYRING]",
    ),
]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where", metavar="EXPR", help=f"Conditions, as format=gguf,memory<12GB. Fields: {', '.join(FIELDS)}."
    ),
]
Best = Annotated[Goal, typer.Option("--best", help="How to choose among several matching versions.")]
Hardware = Annotated[
    str,
    typer.Option(
        "--hardware",
        metavar="NAME",
        help="For --best speed: name of the GPU or processor, or a part of it. [this machine's]",
    ),
]
Variant = Annotated[str, typer.Option("--variant", metavar="NAME", help="Only this variant.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    app.command(
        epilog="Examples: quantmill pull my-model --to model; "
        "quantmill pull my-model --where 'memory<12GB,runtime=llama.cpp' --best quality --to model; "
        "quantmill pull my-model --channel stable --variant gptq-4bit-g64 --keyring keys/keyring --to model"
    )(pull)
    app.command(epilog="Example: quantmill verify model --keyring keys/keyring")(verify)


def pull(
    model: ModelName,
    to: To,
    variant: Variant = "",
    where: Where = None,
    best: Best = "quality",
    hardware: Hardware = "",
    channel: Annotated[
        str | None, typer.Option("--channel", metavar="NAME", help="Choose among this channel's versions.")
    ] = None,
    store_uri: StoreUri = "",
    keyring_folder: KeyringFolder = None,
    json_file: JsonFile = None,
) -> None:
    """Fetch a version into a folder and check every byte; DIR/current is swapped once all files are there.

    Without --channel the command considers the newest version of each variant. The same command again fetches only what is
    missing, and nothing if DIR is up to date.
    """
    check_json_file(json_file)
    keyring = chosen_keyring(keyring_folder)
    store = existing_store(store_uri)
    conditions = ",".join(where or ())
    chosen = client.resolve(store, model, channel, conditions, best, variant, hardware)
    before, began = Place(to).current, time.monotonic()
    with _progress() as bar:
        task = bar.add_task(chosen.variant, total=chosen.size_bytes)
        tree = client.pull(store, chosen, to, keyring, lambda moved: bar.advance(task, moved))
    seconds, new = time.monotonic() - began, before != chosen.digest
    (key, signed), current = _signature(tree, keyring), to / "current"
    held = f" (channel {channel}, sequence {chosen.seq})" if channel else ""
    how = (
        f"{chosen.size_bytes / 1e6:.1f} MB in {seconds:.1f} s"
        if new
        else "current already, files unchanged and not read again"
    )
    lines = [
        f"Pulled  {model}/{chosen.variant}@{chosen.digest[:12]}{held}: {how}",
        f"Signed  {signed}",
        f"Folder  {current}",
        f"Verify  quantmill verify {shlex.quote(str(to))}",
        f"Load    {how_to_load(current, chosen.manifest, asked_program(conditions))}",
    ]
    document = {
        "model": model, "variant": chosen.variant, "manifest": chosen.digest, "channel": channel, "seq": chosen.seq or None,
        "size_bytes": chosen.size_bytes, "folder": str(current.absolute()), "tree": str(tree), "changed": new, "signed_by": key,
    }  # fmt: skip
    answer("\n".join(lines), document, json_file)


def verify(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", callback=a_place, help="A folder that a model was pulled into, or a copy of a version."
        ),
    ],
    keyring_folder: KeyringFolder = None,
    json_file: JsonFile = None,
) -> None:
    """Check every byte of a pulled version: files, names, manifest and, with a keyring, the signature.

    The exit status is 4 if anything is wrong; the message names the file.
    """
    check_json_file(json_file)
    if not folder.is_dir():
        raise RequestError(f"{folder}: must be a folder")
    keyring = chosen_keyring(keyring_folder)
    manifest = client.verify(folder, keyring)
    tree, size = version_folder(folder), sum(file.size_bytes for file in manifest.files)
    (key, signed), digest = _signature(tree, keyring), read_records(tree)[0].digest
    lines = [
        f"Right   {manifest.name}@{digest[:12]}: {len(manifest.files)} files, {size / 1e6:.1f} MB, every byte",
        f"Signed  {signed}",
    ]
    document = {
        "name": manifest.name,
        "manifest": digest,
        "size_bytes": size,
        "tree": str(tree),
        "signed_by": key,
    }
    answer("\n".join(lines), document, json_file)


def chosen_keyring(folder: Path | None) -> Keyring | None:
    """Return the keyring of a folder, else the settings' keyring; None: signatures are not checked."""
    place = folder or load_settings().keyring
    return Keyring.load(place) if place else None


def _signature(tree: Path, keyring: Keyring | None) -> tuple[str | None, str]:
    """Return the key id that signed a version's folder (None without a keyring), and the result in words."""
    version, attestation = read_records(tree)
    if keyring:
        key = signing.verify(attestation, version, keyring)
        return key, f"by key {key}"
    return None, "not checked: no keyring (--keyring, QUANTMILL_KEYRING)" if attestation else "no"


def _progress() -> Progress:
    console = Console(stderr=True)
    columns: list[Any] = [
        "{task.description}",
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    ]
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
