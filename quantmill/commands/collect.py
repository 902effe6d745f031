"""The command `gc`: remove unneeded objects from a store."""

from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.table import Table

from quantmill.commands.answers import JsonFile, StoreUri, answer, existing_store
from quantmill.store import collect
from quantmill.store.collect import KINDS, Rules

_DEFAULT = Rules()
BESIDE: dict[str, Callable[[Rules, bool], list[tuple[str, int]]]] = {}
"""Kind -> function that removes unneeded things outside the store, and returns their names and bytes.

A checkout registers its functions here. The second argument is `--dry-run`: the function then removes nothing.
"""


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("gc", epilog="Example: quantmill gc --dry-run --retention-days 30")(collect_garbage)


def collect_garbage(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be removed, and remove nothing.")] = False,
    grace_hours: Annotated[
        float,
        typer.Option(
            "--grace", min=1, metavar="HOURS", help="Keep everything younger; at least twice the longest publish."
        ),
    ] = _DEFAULT.grace_s / 3600,
    retention_days: Annotated[
        float, typer.Option(min=0, metavar="DAYS", help="How long to keep versions that no channel's history names.")
    ] = _DEFAULT.retention_s / 86400,
    newest: Annotated[
        int, typer.Option(min=1, metavar="N", help="Number of newest versions of each variant to keep at any age.")
    ] = _DEFAULT.newest,
    store_uri: StoreUri = "",
    json_file: JsonFile = None,
) -> None:
    """Remove unneeded objects: expired stage results, old versions that no channel names, unused blobs.

    In a checkout, also remove environments whose lock has changed and that no job used within the retention.
    """
    store, rules = existing_store(store_uri), Rules(grace_hours * 3600, retention_days * 86400, newest)
    garbage = collect.find(store, rules) if dry_run else collect.collect(store, rules)
    rows: list[dict[str, Any]] = [
        {"kind": one.kind, "key": one.listed.key, "size_bytes": one.listed.size_bytes} for one in garbage
    ]
    for kind, remove in BESIDE.items():
        rows += [{"kind": kind, "key": name, "size_bytes": size} for name, size in remove(rules, dry_run)]
    count, size = Counter[str](), Counter[str]()
    for row in rows:
        count[row["kind"]] += 1
        size[row["kind"]] += row["size_bytes"]
    table = Table("what", "objects", "bytes", title=f"{'Would be removed' if dry_run else 'Removed'} from {store.uri}")
    for column in table.columns[1:]:
        column.justify = "right"
    for kind in (*KINDS, *BESIDE):
        table.add_row(kind, str(count[kind]), f"{size[kind]:,}")
    table.add_row("all", str(count.total()), f"{size.total():,}")
    answer(table, {"store": store.uri, "dry_run": dry_run, "removed": rows}, json_file)
