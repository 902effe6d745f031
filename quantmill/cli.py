"""The command line: what a consumer can do with a store, and the factory's commands where the checkout is.

Errors are one line on standard error. Exit codes: 0 done, 2 the request is wrong, 3 no variant was accepted, 4 an artifact
failed verification, 1 anything else.
"""

import importlib
import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from quantmill import __version__
from quantmill.errors import NotFound, QuantmillError, RequestError, with_advice
from quantmill.method_row import AS_IT_IS, Method
from quantmill.methods import METHODS
from quantmill.settings import load_settings
from quantmill.store.folder import FolderStore
from quantmill.tables import Column, fitting, screen

JsonFile = Annotated[
    Path | None, typer.Option("--json", help="Also write the answer as JSON to this file (- for the screen).")
]
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Quantmill: compress language models, measure every result, publish what passes.",
)


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
    """List every method: bits, options, who loads it, calibration, training, and whether it is usable here or why not."""
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
            ", ".join(map(str, row.bits))
            if row.name != "bitsandbytes" and row.bits
            else ", ".join(row.types) or AS_IT_IS,
            ", ".join(f"{option.name}={str(option.default).lower()}" for option in row.options),
            row.format,
            ", ".join(row.loaders),
            "yes" if row.calibrated else "no",
            row.fine_tuning,
            obstacle(row) or "yes",
        )
    answer(table, {"methods": rows}, json_file)


@app.command("list", epilog="Example: quantmill list")
def list_models(json_file: JsonFile = None) -> None:
    """List the models that the store holds, with their variants."""
    store = open_store()
    held = [
        {"model": model, "variants": [_latest(store, model, name) for name in names]}
        for model, names in store.models().items()
    ]
    answer(_table(held, f"Published in {store.uri}"), {"models": held}, json_file)


@app.command(epilog="Example: quantmill show smollm2-135m-instruct")
def show(model: Annotated[str, typer.Argument(help="A model that `list` names.")], json_file: JsonFile = None) -> None:
    """Show a model's variants with their metrics."""
    store = open_store()
    names = store.models().get(model)
    if names is None:
        raise NotFound(f"{model}: not in {store.uri}; it holds {', '.join(store.models()) or 'nothing'}")
    held = [{"model": model, "variants": [_latest(store, model, name) for name in names]}]
    answer(_table(held, model), held[0], json_file)


def open_store() -> FolderStore:
    """Return the store that the settings name."""
    settings = load_settings()
    return FolderStore(settings.store_path, settings.stage_days)


def obstacle(row: Method) -> str:
    """Return why a method cannot run here, or nothing."""
    for package in row.engines:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return f"{package} is not installed"
    return ""


def answer(table: Table, document: Any, json_file: Path | None) -> None:
    """Print the table, or the document where `-` asks for it on the screen; write the document where a file is named."""
    check_json_file(json_file)
    text = json.dumps(document, indent=2, ensure_ascii=False)
    if json_file is not None and str(json_file) == "-":
        typer.echo(text)
        return
    if json_file is not None:
        json_file.write_text(text + "\n", encoding="utf-8")
    screen().print(table)


def check_json_file(json_file: Path | None) -> None:
    """Raise RequestError where the document could not be written, before anything runs."""
    if json_file is not None and (json_file.is_dir() or not json_file.absolute().parent.is_dir()):
        raise RequestError(f"--json: {json_file}: must be a file in a folder that exists, or - for the screen")


def _latest(store: FolderStore, model: str, variant: str) -> dict[str, Any]:
    """Return a variant's newest version with what was measured."""
    manifest = store.manifest(store.versions(model, variant)[-1].manifest)
    evaluation = manifest.evaluation
    return {
        "name": variant,
        "manifest": manifest.digest,
        "format": manifest.variant["format"],
        "bits": manifest.variant["bits"],
        "size_bytes": sum(file.size_bytes for file in manifest.files),
        "bits_per_weight": evaluation.bits_per_weight,
        **evaluation.metrics.model_dump(include={"perplexity", "mean_kl", "p99_kl", "top1_agreement"}),
        "decode_tokens_per_s": evaluation.speed.decode_tokens_per_s,
        "peak_memory_bytes": evaluation.speed.peak_memory_bytes,
        "gate": evaluation.gate,
        "files": [file.path for file in manifest.files],
    }


def _table(held: list[dict[str, Any]], title: str) -> Table:
    columns = [
        Column("model", right=False), Column("variant", right=False), Column("format", 4, right=False), Column("MB"),
        Column("bits/w", 5), Column("perplexity", 1), Column("mean KL"), Column("top-1", 3), Column("tok/s", 2),
        Column("manifest", 6),
    ]  # fmt: skip
    rows = [
        [
            entry["model"],
            row["name"],
            row["format"],
            f"{row['size_bytes'] / 1e6:.1f}",
            f"{row['bits_per_weight']:.2f}",
            f"{row['perplexity']:.3f}",
            f"{row['mean_kl']:.4f}",
            f"{row['top1_agreement']:.1%}",
            f"{row['decode_tokens_per_s']:.1f}",
            row["manifest"][:12],
        ]
        for entry in held
        for row in entry["variants"]
    ]
    return fitting(title, columns, rows, screen().width)


def _add_factory() -> None:
    """Add the factory's commands where its code lies beside this package: in a checkout, not in the wheel."""
    root = Path(__file__).resolve().parent.parent
    if (root / "flows").is_dir() and (root / "pyproject.toml").is_file():
        importlib.import_module("flows.cli").add_to(app)


def main() -> None:
    """Run the command line."""
    _add_factory()
    try:
        app()
    except QuantmillError as error:
        typer.echo(f"error: {with_advice(type(error).__name__, str(error))}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        typer.echo(f"error: {error.filename or 'system'}: {error.strerror or error}", err=True)
        sys.exit(1)
    except Exception as error:
        if load_settings().debug:
            raise
        words = " ".join(str(error).split())[:300]
        typer.echo(f"error: unexpected {type(error).__name__}: {words}; QUANTMILL_DEBUG=1 shows where", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
