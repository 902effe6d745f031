"""Prints the end of a run: the table, why variants were refused, and where to find the results."""

import os
import shlex
import sys
from pathlib import Path

from rich.console import Console, Group
from rich.table import Table

from quantmill import signing
from quantmill.commands import tables
from quantmill.commands.tables import Column
from quantmill.errors import VerificationError
from quantmill.files.paths import sqlite_uri
from quantmill.records.report import RunSummary, VariantSummary
from quantmill.records.selection import FIGURES
from quantmill.settings import Settings
from quantmill.store.places import configured_store

_STYLE = {"accepted": "green", "rejected": "yellow", "failed": "red"}
_RANKS = {
    "size_bytes": 0, "bits_per_weight": 4, "perplexity": 2, "perplexity_ratio": 5, "mean_kl": 0, "top1_agreement": 3,
    "decode_tokens_per_s": 1, "peak_memory_bytes": 6,
}  # fmt: skip
"""Figure -> rank; on a narrow screen the columns with the highest ranks are left out first."""
_COLUMNS = [
    Column("variant", right=False), Column("status", right=False),
    *(Column(FIGURES[name].title, rank) for name, rank in _RANKS.items()),
]  # fmt: skip


def show(summary: RunSummary, settings: Settings, waits: int = 0) -> None:
    """Print a finished run; `waits` is the number of runs that wait for MLflow."""
    console = tables.screen()
    console.print(table_of(summary, console.width))
    _print_remarks(summary, console)
    _print_places(summary, settings, console, waits)


def table_of(summary: RunSummary, width: int = 160) -> Table | Group:
    """Return the run's table, with as many columns as fit."""
    base = summary.baseline.model_dump() | {"perplexity_ratio": 1.0}
    first = [base["name"], "reference", *(FIGURES[name].shown(base[name]) if name in base else "" for name in _RANKS)]
    title = f"{summary.model}: {len(summary.accepted)} of {len(summary.variants)} variants accepted"
    return tables.fitting(title, _COLUMNS, [first, *map(_cells, summary.variants)], width)


def _cells(row: VariantSummary) -> list[str]:
    marks = f" ({', '.join(row.marks)})" if row.marks else ""
    status = f"[{_STYLE[row.status]}]{row.status}[/]" + (" cached" if row.cached else "")
    return [row.name + marks, status, *(FIGURES[name].shown(getattr(row, name)) for name in _RANKS)]


def _print_remarks(summary: RunSummary, console: Console) -> None:
    for row in summary.variants:
        for reason in row.reasons:
            console.print(f"  {row.name}: {row.status}: {reason}", highlight=False, markup=False)
    for note in summary.source_notes:
        console.print(f"  source: {note}", highlight=False, markup=False)
    floors = ", ".join(f"{runtime} {floor:.1e}" for runtime, floor in summary.noise_floor.items())
    console.print(f"  noise floor (mean KL of the baseline's own weights): {floors}", highlight=False)
    if summary.picks:
        console.print(
            "  best for " + ", ".join(f"{goal}: {name}" for goal, name in summary.picks.items()), highlight=False
        )


def _print_places(summary: RunSummary, settings: Settings, console: Console, waits: int) -> None:
    """Print paths, and commands that work in any folder and send no telemetry."""
    home = settings.home.absolute()

    def line(name: str, text: str) -> None:
        console.print(f"{name:<8} {text}", highlight=False, soft_wrap=True, markup=False)

    def command(name: str, *arguments: str) -> str:
        beside = Path(sys.executable).parent / name
        return shlex.join([str(beside) if beside.exists() else name, *arguments])

    console.print()
    line("Report", str(home / "reports" / summary.model / "report.html"))
    line("Store", f"{settings.store_uri}   ({command('quantmill', 'show', summary.model)})")
    if summary.timings:
        line("Seconds", ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in summary.timings.items()))
    if summary.accepted:
        line("Signed", _signers(summary, settings))
    if summary.channel:
        moved = f"{summary.model}/{summary.channel}"
        line("Channel", f"{moved} at move {summary.channel_seq}" if summary.channel_seq else f"{moved}: not moved")
    if waits:
        line("MLflow", f"{waits} runs wait for it   ({command('quantmill', 'register')})")
    served = settings.tracking_uri.startswith(("http://", "https://"))
    pages = f"MLFLOW_DISABLE_TELEMETRY=true {command('mlflow', 'ui', '--backend-store-uri', settings.tracking_uri)}"
    line("MLflow", settings.tracking_uri if served else pages)
    quiet = f"DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false PREFECT_HOME={shlex.quote(str(home / 'prefect'))}"
    if "?" in str(home):  # the URL that Prefect makes of its database would end at the ?
        address = sqlite_uri(home / "prefect" / "prefect.db", "aiosqlite")
        quiet = f"PREFECT_SERVER_DATABASE_CONNECTION_URL={shlex.quote(address)} {quiet}"
    line("Prefect", os.environ.get("PREFECT_API_URL") or f"{quiet} {command('prefect', 'server', 'start')}")


def _signers(summary: RunSummary, settings: Settings) -> str:
    """Return the keys by which the accepted versions claim to be signed."""
    store = configured_store(settings)
    keys, bare = set[str](), 0
    for row in summary.accepted:
        envelope = store.attestation(str(row.manifest))
        bare += envelope is None
        try:
            keys |= {f"by key {signing.claimed_key(envelope)}"} if envelope else set()
        except VerificationError as error:
            keys.add(f"{row.name}: damaged attestation: {error}")
    unsigned = f"{bare} not signed: QUANTMILL_SIGNING_KEY names no key (quantmill keys create makes one)"
    return "; ".join([*sorted(keys), *([unsigned] if bare else [])])
