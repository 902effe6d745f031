"""The factory's commands, added to `quantmill` in a checkout."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, cast

import typer

from flows import environment_commands, publish_commands, stops
from flows.server.environment import embedded_environment, home_made
from flows.show import screen
from flows.show.progress import say, show_progress
from quantmill import signing
from quantmill.commands import answers
from quantmill.errors import SettingsError, SigningError
from quantmill.recipe.recipe import Recipe
from quantmill.recipe.recipe_file import read_recipe
from quantmill.records.report import RunSummary
from quantmill.settings import Settings, load_settings


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    app.command(
        epilog="Example: quantmill compress deployments/recipes/demo.yaml --json run.json --set model.source=./my-model"
    )(compress)
    publish_commands.add_to(app)
    environment_commands.add_to(app)
    app.command(epilog="Example: quantmill bootstrap --pools deployments/pools.yaml")(bootstrap)
    app.command(epilog="Example: quantmill landed --dry-run")(landed)
    app.command(epilog="Example: quantmill metrics --port 9464")(metrics)


def bootstrap(
    pools: Annotated[
        Path | None,
        typer.Option(
            callback=answers.a_place, help="The file of pools; default: QUANTMILL_POOLS, or deployments/pools.yaml."
        ),
    ] = None,
) -> None:
    """Make pools, queues, deployments and automations on the Prefect server that PREFECT_API_URL names."""
    settings = load_settings()
    with home_made(settings.home), embedded_environment(settings):
        from flows.pools import read_pools
        from flows.server import bootstrap as server
        from flows.server.embedded import require_server

        require_server()
        listed = read_pools(pools or settings.pools or server.POOLS)
        asyncio.run(server.bootstrap(listed, settings.notify_url, typer.echo))


def landed(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what landed; record and start nothing.")] = False,
) -> None:
    """Start runs for the new base models of the watch list.

    The deployment `watch/watch` does the same on a schedule.
    """
    settings = load_settings()
    with home_made(settings.home), embedded_environment(settings):
        from flows.server.embedded import require_server
        from flows.watch import preview, watch

        if dry_run:
            preview(settings, typer.echo)
        else:
            require_server()
            asyncio.run(watch())


def metrics(
    port: Annotated[int, typer.Option(help="Serve the metrics on this port, at /metrics; 0: print them once.")] = 0,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
) -> None:
    """Export the factory's metrics for Prometheus.

    The metrics come from the store and from the Prefect server that PREFECT_API_URL names.
    """
    settings = load_settings()
    with home_made(settings.home), embedded_environment(settings):
        from prometheus_client import CollectorRegistry, generate_latest, start_http_server

        from flows.server.embedded import require_server_named
        from flows.server.exporter import Exporter

        require_server_named()
        registry = CollectorRegistry()
        registry.register(Exporter(answers.configured_store()))
        if not port:
            typer.echo(generate_latest(registry).decode(), nl=False)
            return
        try:
            _, serving = start_http_server(port, host, registry)
        except OSError as error:
            raise SettingsError(f"--port: {host}:{port}: {error.strerror or error}") from error
        serving.join()


def compress(
    recipe_file: Annotated[
        Path, typer.Argument(metavar="RECIPE", callback=answers.a_place, help="A YAML recipe; see deployments/recipes.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a field: --set model.source=./model."),
    ] = None,
    json_file: answers.JsonFile = None,
    measure_again: Annotated[
        bool, typer.Option("--measure-again", help="Measure every variant's speed again; make no artifact again.")
    ] = False,
) -> None:
    """Run the line: download, calibrate, quantize, evaluate, gate, publish, register.

    Results of earlier runs are used again. Exit code: 0 if a variant was accepted, 3 if none was.
    """
    recipe, settings = read_recipe(recipe_file, tuple(overrides or ())), load_settings()
    answers.check_json_file(json_file)
    with stops.told(), embedded_environment(settings):
        check(recipe, settings)
        summary = None if measure_again else recall(recipe, settings)
        if summary is None:
            require_work(recipe, settings)
            with show_progress():
                summary = run(recipe, settings, lambda done: leave_json(done, json_file), measure_again)
        else:
            leave_json(summary, json_file)
            with show_progress():
                told = publish_commands.tell_mlflow(settings)
            summary = (recall(recipe, settings) if told else None) or summary
        leave_json(summary, json_file)
    if str(json_file) == "-":
        typer.echo(_document(summary))
    else:
        screen.show(summary, settings, len(publish_commands.waiting_runs()))
    if not summary.accepted:
        raise typer.Exit(3)


def leave_json(summary: RunSummary, json_file: Path | None) -> None:
    """Write the summary to the file that `--json` names, if any.

    `compress` writes the file before it delivers to MLflow, which may take long, and again with the MLflow run.
    """
    if json_file is not None and str(json_file) != "-":
        json_file.write_text(_document(summary) + "\n", encoding="utf-8")


def _document(summary: RunSummary) -> str:
    return json.dumps(summary.model_dump(mode="json"), indent=2, ensure_ascii=False)


def check(recipe: Recipe, settings: Settings) -> None:
    """Raise RequestError for a recipe or for settings that cannot work, before anything is written."""
    from flows.jobs import choose_device
    from flows.sendable import require_somebody_to_ask
    from tasks import quantize, text
    from tasks.source import download, places

    if settings.signing_key:
        try:
            signing.own_keyring(settings.signing_key)
        except SigningError as error:
            raise SettingsError(str(error)) from error
    recipe.expand()
    require_somebody_to_ask(recipe, deployed=False)
    _ = recipe.model_name  # raises where there is none
    if settings.pools is None:
        choose_device(recipe.device)
    text.check_texts(recipe)
    origin = download.preview_source(recipe.model, settings.home)
    text.require_context(recipe, origin.architecture)
    specs = recipe.expand(origin.architecture.linear_inputs)
    download.preview_checkpoints(recipe, origin, settings.home)
    if origin.kind == "folder" and not recipe.model.remote:
        quantize.require(specs, places.locate(recipe.model.source))


def require_work(recipe: Recipe, settings: Settings) -> None:
    """Raise RequestError for unusable data sets or chat templates, or too little free disk.

    Only a run needs these checks; a recalled summary does not.
    """
    from tasks import text
    from tasks.source import download

    origin = download.preview_source(recipe.model, settings.home)
    text.check_all(recipe)
    on_disk = [] if "://" in settings.store_uri else [Path(settings.store_uri)]
    for place in {settings.home, *on_disk}:
        download.require_space(recipe, origin, place)


def recall(recipe: Recipe, settings: Settings) -> RunSummary | None:
    """Return the stored summary of a complete run, or None."""
    if not settings.home.exists():
        return None
    from flows.recall import recall_run

    return recall_run(recipe, settings)


def run(
    recipe: Recipe, settings: Settings, finished: Callable[[RunSummary], object], measure_again: bool = False
) -> RunSummary:
    """Run the flow in this process and return its summary.

    Prefect's server is embedded unless PREFECT_API_URL names one. `finished` gets the summary before MLflow does.
    """
    from flows.server.embedded import prefect_api

    say("starting Prefect on this machine")
    settings.home.mkdir(parents=True, exist_ok=True)  # Prefect makes its folder in the home, but not the home
    with prefect_api(settings.home):
        from prefect import tags

        from flows.compress import FINISHED
        from flows.compress import compress as flow

        FINISHED.set(finished)
        with tags("quantmill", recipe.model_name):
            made = stops.run(flow(recipe, measure_again=measure_again))
            return cast("RunSummary", made)  # the flow returns a State only for a landing
