"""The factory's commands, added to `quantmill` in a checkout."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from flows.progress import show_progress
from quantmill import cli
from quantmill.recipe import Recipe
from quantmill.recipe_file import read_recipe
from quantmill.report import RunSummary, VariantSummary
from quantmill.settings import Settings, load_settings

_STYLE = {"accepted": "green", "rejected": "yellow", "failed": "red"}


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    app.command(
        epilog="Example: quantmill compress deployments/recipes/demo.yaml --json run.json --set model.source=./my-model"
    )(compress)


def compress(
    recipe_file: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML recipe; see deployments/recipes.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a field: --set model.source=./model."),
    ] = None,
    json_file: cli.JsonFile = None,
) -> None:
    """Run the line: download, calibrate, quantize, evaluate, gate, register, publish.

    What was finished before is not made again. Ends with 0 where a variant was accepted, 3 where none was.
    """
    recipe, settings = read_recipe(recipe_file, tuple(overrides or ())), load_settings()
    cli.check_json_file(json_file)
    check(recipe, settings)
    with embedded_environment(settings):
        summary = recall(recipe, settings)
        if summary is None:
            require_space(recipe, settings)
            with show_progress():
                summary = run(recipe, settings)
    text = json.dumps(summary.model_dump(mode="json"), indent=2, ensure_ascii=False)
    if json_file is not None and str(json_file) != "-":
        json_file.write_text(text + "\n", encoding="utf-8")
    if str(json_file) == "-":
        typer.echo(text)
    else:
        console = cli.screen()
        console.print(table_of(summary))
        _print_remarks(summary, console)
        _print_places(summary, settings, console)
    if not summary.accepted:
        raise typer.Exit(3)


def check(recipe: Recipe, settings: Settings) -> None:
    """Refuse what cannot work before anything is written; see `RequestError`."""
    from tasks import calibrate, download

    recipe.expand()
    _ = recipe.model_name  # raises where no name can be made
    calibrate.read_text(recipe.calibration, "calibration")
    calibrate.read_text(recipe.evaluation, "evaluation")
    origin = download.inspect_source(recipe.model, settings.home)
    recipe.expand(origin.architecture.linear_inputs)


def require_space(recipe: Recipe, settings: Settings) -> None:
    """Refuse a run that would fill a disk."""
    from tasks import download

    origin = download.inspect_source(recipe.model, settings.home)
    for place in {settings.home, settings.store_path}:
        download.require_space(recipe, origin, place)


def recall(recipe: Recipe, settings: Settings) -> RunSummary | None:
    """Return the summary of a run of which nothing is missing."""
    if not settings.home.exists():
        return None
    from flows.compress import recall_run

    return recall_run(recipe, settings)


def run(recipe: Recipe, settings: Settings) -> RunSummary:
    """Run the flow with Prefect and MLflow on this machine, nothing to start."""
    from flows.embedded import prefect_api

    settings.home.mkdir(parents=True, exist_ok=True)  # Prefect makes its own folder in it, but no parents
    with prefect_api(settings.home):
        from prefect import tags

        from flows.compress import compress as flow

        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # ends as Ctrl-C does
        with tags("quantmill", recipe.model_name):
            return asyncio.run(flow(recipe))


@contextmanager
def embedded_environment(settings: Settings) -> Iterator[None]:
    """Switch telemetry off for the time of a run, before Prefect and MLflow are imported."""
    wanted = {
        "PREFECT_HOME": str(settings.home.absolute() / "prefect"),
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # else a server that is down costs minutes
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def table_of(summary: RunSummary) -> Table:
    """Return the run's table."""
    table = Table(title=f"{summary.model}: {len(summary.accepted)} of {len(summary.variants)} variants accepted")
    for name in (
        "variant",
        "status",
        "MB",
        "bits/w",
        "perplexity",
        "ratio",
        "mean KL",
        "top-1",
        "decode tok/s",
        "peak MB",
    ):
        table.add_column(name, justify="left" if name in ("variant", "status") else "right", no_wrap=True)
    base = summary.baseline
    table.add_row(
        base.name, "reference", f"{base.size_bytes / 1e6:.1f}", f"{base.bits_per_weight:.2f}", f"{base.perplexity:.3f}",
        "1.000", "", "", f"{base.decode_tokens_per_s:.1f}", f"{base.peak_memory_bytes / 1e6:.0f}",
    )  # fmt: skip
    for row in summary.variants:
        table.add_row(*_cells(row))
    return table


def _cells(row: VariantSummary) -> list[str]:
    marks = f" ({', '.join(row.marks)})" if row.marks else ""
    status = f"[{_STYLE[row.status]}]{row.status}[/]" + (" cached" if row.cached else "")

    def shown(value: float | None, form: str, scale: float = 1.0) -> str:
        return "-" if value is None else format(value * scale, form)

    return [
        row.name + marks,
        status,
        shown(row.size_bytes, ".1f", 1e-6),
        shown(row.bits_per_weight, ".2f"),
        shown(row.perplexity, ".3f"),
        shown(row.perplexity_ratio, ".3f"),
        shown(row.mean_kl, ".4f"),
        shown(row.top1_agreement, ".1%"),
        shown(row.decode_tokens_per_s, ".1f"),
        shown(row.peak_memory_bytes, ".0f", 1e-6),
    ]


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


def _print_places(summary: RunSummary, settings: Settings, console: Console) -> None:
    home = settings.home
    console.print(f"\nReport   {home / 'reports' / summary.model / 'report.html'}", highlight=False, soft_wrap=True)
    console.print(f"Store    {settings.store_path}   (quantmill show {summary.model})", highlight=False, soft_wrap=True)
    tracking = settings.mlflow_uri or f"sqlite:///{home / 'mlflow' / 'mlflow.db'}"
    console.print(f"MLflow   mlflow ui --backend-store-uri {tracking}", highlight=False, soft_wrap=True)
    prefect = os.environ.get("PREFECT_API_URL") or f"PREFECT_HOME={home / 'prefect'} prefect server start"
    console.print(f"Prefect  {prefect}", highlight=False, soft_wrap=True)
