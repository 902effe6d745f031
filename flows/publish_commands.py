"""The commands `register` (tells MLflow about runs) and `export` (copies a published version)."""

from typing import Annotated

import typer

from flows.server.environment import embedded_environment
from flows.show.progress import say, show_progress
from quantmill.commands import store as store_commands
from quantmill.commands.answers import ModelName, existing_store
from quantmill.errors import RegistrationError
from quantmill.settings import Settings, load_settings
from quantmill.signing import Keyring
from quantmill.store.store import Store


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module, and let `revoke` tell MLflow."""
    app.command(epilog="Example: quantmill register")(register)
    app.command(epilog="Example: quantmill export smollm2-135m-instruct gguf-q8_0 hf://org/name --private")(export)
    store_commands.AFTER_REVOKE.append(tell_of_revocation)


def register() -> None:
    """Tell MLflow about the runs that wait for it, and about revoked versions.

    `compress` also delivers waiting runs. Exit code: 1 if runs still wait for MLflow.
    """
    settings, store = load_settings(), existing_store()
    with embedded_environment(settings), show_progress():
        from tasks.register import show_revocations

        tell_mlflow(settings)
        waits = len(waiting_runs())
        shown = sum(show_revocations(store, model, settings.tracking_uri) for model in store.models())
    typer.echo(f"{waits} runs wait for MLflow; {shown} revoked versions are newly shown there")
    if waits:
        raise typer.Exit(1)


def export(
    model: ModelName,
    variant: Annotated[
        str, typer.Argument(metavar="VARIANT[@DIGEST]", help="A variant; its newest version by default.")
    ],
    target: Annotated[str, typer.Argument(help="hf://org/name, s3://bucket/prefix or a folder.")],
    private: Annotated[bool, typer.Option("--private", help="hf://: make a new repository private.")] = False,
) -> None:
    """Copy a published version to a hub, a bucket or a folder, with the files that `pull` would write.

    A revoked version is refused, and so is a target with other content. The hub needs HF_TOKEN.
    """
    from tasks import publish

    settings = load_settings()
    keyring = Keyring.load(settings.keyring) if settings.keyring else None
    with embedded_environment(settings):
        typer.echo(publish.export(existing_store(), model, variant, target, private, keyring))


def tell_mlflow(settings: Settings) -> int:
    """Deliver the runs that wait for MLflow, report the result, and return how many were delivered."""
    from tasks.register import deliver

    store = existing_store()
    if not waiting_runs():
        return 0
    delivery = deliver(store, settings.tracking_uri)
    for line in (*delivery.problems, f"{len(delivery.runs)} waiting runs registered in MLflow"):
        say(line)
    return len(delivery.runs)


def waiting_runs() -> list[str]:
    """Return the names of the runs that MLflow has not been told of."""
    from tasks.register import waiting

    return waiting(existing_store())


def tell_of_revocation(store: Store, model: str) -> str:
    """Tell MLflow which versions of a model were revoked; return one line about the result.

    The store has revoked the versions whatever MLflow answers.
    """
    settings = load_settings()
    with embedded_environment(settings):
        from tasks.register import show_revocations

        try:
            shown = show_revocations(store, model, settings.tracking_uri)
        except RegistrationError as error:
            return str(error)
    return f"MLflow shows it ({shown} versions there)"
