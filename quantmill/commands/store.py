"""Commands about a store's versions and channels: list, show, channels, promote, rollback, revoke."""

import datetime
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from quantmill.commands.answers import JsonFile, ModelName, StoreUri, answer, existing_store
from quantmill.commands.tables import Column, fitting, screen
from quantmill.errors import RequestError, VerificationError
from quantmill.records.selection import FIGURES, of_manifest
from quantmill.store import channels as moves
from quantmill.store.channels import Channel
from quantmill.store.named import find_version
from quantmill.store.side_records import SideRecord
from quantmill.store.store import Store

Version = Annotated[str, typer.Argument(metavar="VARIANT[@DIGEST]", help="A version; default: the newest.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, in words; the channel's history keeps it.")]
ChannelName = Annotated[str, typer.Option("--channel", metavar="NAME", help="The channel, such as `stable`.")]

_RANKS = {
    "size_bytes": 0, "bits_per_weight": 8, "perplexity": 2, "mean_kl": 0, "top1_agreement": 7, "decode_tokens_per_s": 4,
}  # fmt: skip
"""Figure -> rank of its column: columns of the highest rank are left out first on a narrow screen."""
AFTER_REVOKE: list[Callable[[Store, str], str]] = []
"""Functions to call with store and model after a version was revoked; each returns a line for the screen.

The factory registers one that tells MLflow.
"""


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    app.command("list", epilog="Example: quantmill list --store s3://bucket/prefix")(list_models)
    app.command(epilog="Example: quantmill show smollm2-135m-instruct")(show)
    app.command("channels", epilog="Example: quantmill channels smollm2-135m-instruct")(show_channels)
    app.command(
        epilog="Examples: quantmill promote my-model gguf-q8_0 --channel stable --reason 'passed the canary'; "
        "quantmill promote my-model gguf-q8_0@42f0314d gptq-4bit-g64 --channel stable --reason 'release 3'"
    )(promote)
    app.command(
        epilog="Examples: quantmill rollback my-model --channel stable --reason 'slower than before'; "
        "quantmill rollback my-model --channel stable --to 4 --reason 'as on Monday'"
    )(rollback)
    app.command(epilog="Example: quantmill revoke my-model gguf-q2_k@42f0314d --reason 'rambles in German'")(revoke)


def list_models(store_uri: StoreUri = "", json_file: JsonFile = None) -> None:
    """List the models that the store holds, with the newest version of each variant."""
    store = existing_store(store_uri)
    held = {model: [_latest(store, model, name) for name in names] for model, names in store.models().items()}
    rows = [(model, row) for model, variants in held.items() for row in variants]
    document = {"models": [{"model": model, "variants": variants} for model, variants in held.items()]}
    answer(_table(rows, f"Published in {store.uri}"), document, json_file)


def show(model: ModelName, store_uri: StoreUri = "", json_file: JsonFile = None) -> None:
    """Show a model's versions: figures, signers, channels that hold them, and revocations.

    The list has the newest version of each variant, and the older versions that a channel holds.
    """
    store = existing_store(store_uri)
    names, held = store.variants(model), moves.channels(store, model)
    newest = [_latest(store, model, name) for name in names]
    known = {row["manifest"] for row in newest}
    older = {item for channel in held for item in channel.current.variants.items() if item[1] not in known}
    rows = [*newest, *(_row(store, model, name, digest) for name, digest in sorted(older))]
    for row in rows:
        row["channels"] = [c.name for c in held if c.current.variants.get(row["name"]) == row["manifest"]]
        row["records"] = [_side_record(record) for record in store.records(model, row["name"], row["manifest"])]
    document = {"model": model, "variants": newest, "older": rows[len(newest) :]}
    answer(_table([(model, row) for row in rows], model), document, json_file)


def show_channels(model: ModelName, store_uri: StoreUri = "", json_file: JsonFile = None) -> None:
    """Show a model's channels: what each holds, since when and why."""
    store = existing_store(store_uri)
    store.variants(model)  # raises if there is no such model
    held = moves.channels(store, model)
    _answer_channels(model, held, json_file)


def promote(
    model: ModelName,
    versions: Annotated[
        list[str], typer.Argument(metavar="VARIANT[@DIGEST]...", help="Versions; default: the newest not revoked.")
    ],
    channel: ChannelName,
    reason: Reason,
    store_uri: StoreUri = "",
    json_file: JsonFile = None,
) -> None:
    """Make versions current in a channel; the channel's other variants stay unchanged.

    A channel that does not exist is created.
    """
    store = existing_store(store_uri)
    found = [find_version(store, model, text) for text in versions]
    if len(wanted := dict(found)) < len(found):
        twice = next(name for name in wanted if [variant for variant, _ in found].count(name) > 1)
        raise RequestError(f"{twice} is named twice; a channel holds one version of a variant")
    _answer_channels(model, [moves.promote(store, model, channel, wanted, reason)], json_file)


def rollback(
    model: ModelName,
    channel: ChannelName,
    reason: Reason,
    to: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="SEQ", help="Sequence number of the move to go back to; default: the last but one."
        ),
    ] = None,
    store_uri: StoreUri = "",
    json_file: JsonFile = None,
) -> None:
    """Go back to what a channel held before; this is a new move, so the sequence number grows."""
    store = existing_store(store_uri)
    store.variants(model)  # raises if there is no such model
    _answer_channels(model, [moves.roll_back(store, model, channel, reason, to or 0)], json_file)


def revoke(
    model: ModelName, version: Version, reason: Reason, store_uri: StoreUri = "", json_file: JsonFile = None
) -> None:
    """Withdraw a version for good: nobody can pull it, and every channel goes back to the version before.

    Without @DIGEST the command revokes the newest version, even if that is revoked already: running it twice has no further
    effect.
    """
    store = existing_store(store_uri)
    variant, digest = find_version(store, model, version, standing=False)
    moved = moves.withdraw(store, model, variant, digest, reason)
    typer.echo(
        f"Revoked {model}/{variant}@{digest[:12]}; it was in {', '.join(c.name for c in moved) or 'no channel'}",
        err=True,
    )
    _answer_channels(model, moved, json_file)
    told = [tell(store, model) for tell in AFTER_REVOKE]
    typer.echo(
        "\n".join(told) or "MLflow shows it after the next `quantmill register` where the factory runs", err=True
    )


def _latest(store: Store, model: str, variant: str) -> dict[str, Any]:
    """Return the row of a variant's newest version."""
    return _row(store, model, variant, store.versions(model, variant)[-1].manifest)


def _row(store: Store, model: str, variant: str, digest: str) -> dict[str, Any]:
    manifest, revoked = store.manifest(digest), store.revocation(model, variant, digest)
    figures = of_manifest(manifest).model_dump(exclude={"name"})
    return {
        "name": variant,
        "manifest": digest,
        **figures,
        "gate": manifest.evaluation.gate,
        "files": [file.path for file in manifest.files],
        "signed_by": _signer(store.attestation(digest)),
        "revoked": revoked.reason if revoked else None,
    }


def _side_record(record: SideRecord) -> dict[str, Any]:
    known = {"kind": record.kind, "number": record.number, "layout": record.layout}
    if record.is_too_new:
        return known | {"problem": f"layout {record.layout} is of a newer release"}
    return known | {"made_at": record.made_at, "value": record.value}


def _signer(attestation: bytes | None) -> str | None:
    """Return the key id that an attestation claims; only `pull` and `verify` check it against a keyring."""
    from quantmill.signing import claimed_key

    try:
        return claimed_key(attestation) if attestation else None
    except VerificationError:
        return "damaged"


def _table(rows: Sequence[tuple[str, dict[str, Any]]], title: str) -> Table | Group:
    columns = [
        Column("model", 10 if title in {model for model, _ in rows} else 3, right=False), Column("variant", right=False),
        Column("format", 9, right=False), *(Column(FIGURES[name].title, rank) for name, rank in _RANKS.items()),
        Column("manifest", 5), Column("signed", 6), Column("standing", right=False),
    ]  # fmt: skip
    cells = [
        [
            model,
            row["name"],
            escape(row["format"]),
            *(FIGURES[name].shown(row[name]) for name in _RANKS),
            row["manifest"][:12],
            escape((row["signed_by"] or "no")[:8]),
            "[red]revoked[/]" if row["revoked"] else ", ".join(row.get("channels", [])),
        ]
        for model, row in rows
    ]
    return fitting(title, columns, cells, screen().width)


def _answer_channels(model: str, held: list[Channel], json_file: Any) -> None:
    columns = [
        Column("channel", right=False), Column("seq"), Column("variant", right=False), Column("manifest", right=False),
        Column("since", 1, right=False), Column("reason", 2, right=False),
    ]  # fmt: skip
    rows = [
        [
            channel.name,
            str(channel.seq),
            variant,
            digest[:12],
            datetime.datetime.fromtimestamp(channel.current.made_at, datetime.UTC).strftime("%Y-%m-%d %H:%M"),
            escape(channel.current.reason),
        ]
        for channel in held
        for variant, digest in sorted(channel.current.variants.items()) or [("nothing", "")]
    ]
    document = {"model": model, "channels": [channel.model_dump(mode="json") for channel in held]}
    answer(fitting(f"Channels of {model}", columns, rows, screen().width), document, json_file)
