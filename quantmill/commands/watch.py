"""The command `watch`: follows a channel until it is stopped."""

import re
import signal
import sys
import time
from contextlib import suppress
from typing import Annotated

import typer

from quantmill.client.watch import Watch
from quantmill.commands.answers import ModelName, StoreUri, existing_store
from quantmill.commands.client import Best, Hardware, KeyringFolder, To, Variant, Where, chosen_keyring
from quantmill.commands.tables import printable
from quantmill.errors import RequestError

_SECONDS = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(s|m|h|)")


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(
        epilog="Example: quantmill watch my-model --channel stable --where runtime=llama.cpp --to model "
        "--run 'systemctl restart llama-server' --limit 5m"
    )(watch)


def watch(
    model: ModelName,
    channel: Annotated[str, typer.Option("--channel", metavar="NAME", help="The channel to follow.")],
    to: To,
    every: Annotated[str, typer.Option("--every", metavar="TIME", help="How often to look: 30s, 5m, 1h.")] = "30s",
    command: Annotated[
        str,
        typer.Option(
            "--run", metavar="COMMAND", help="Called after a change, with the new folder in QUANTMILL_PULLED; no shell."
        ),
    ] = "",
    run_revoked: Annotated[
        str,
        typer.Option("--run-revoked", metavar="COMMAND", help="Called once if the current version was revoked."),
    ] = "",
    limit: Annotated[
        str,
        typer.Option("--limit", metavar="TIME", help="Time limit of a command; it is then ended with its children."),
    ] = "10m",
    any_format: Annotated[
        bool, typer.Option("--any-format", help="Allow the format to change, for example from GGUF to safetensors.")
    ] = False,
    variant: Variant = "",
    where: Where = None,
    best: Best = "quality",
    hardware: Hardware = "",
    store_uri: StoreUri = "",
    keyring_folder: KeyringFolder = None,
) -> None:
    """Follow a channel: pull whenever the channel moves, then call a command.

    `watch` runs until SIGTERM, SIGHUP or Ctrl-C and then ends with status 0. While the store does not answer, the current
    version stays, and `watch` asks less often (up to 16 times --every). A command that fails, or takes longer than --limit, is
    called again in the next round, also after a restart, until its exit status is 0.
    """
    watched = Watch(
        existing_store(store_uri), model, channel, to, where=",".join(where or ()), best=best, variant=variant, hardware=hardware,
        keyring=chosen_keyring(keyring_folder), command=command, run_revoked=run_revoked, limit_s=_seconds("--limit", limit),
        any_format=any_format, every_s=_seconds("--every", every), say=_log,
    )  # fmt: skip
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(
            number, signal.default_int_handler
        )  # ends like Ctrl-C, even if a shell's `&` made the process ignore SIGINT
    try:
        _log(f"watching {model}/{channel} every {every}")
        watched.run()
    except KeyboardInterrupt:
        _log("stopped")


def _seconds(option: str, text: str) -> float:
    found = _SECONDS.fullmatch(text)
    if not found or not float(found[1]):
        raise RequestError(f"{option}: {text!r}: must be a time such as 30s, 5m or 1h")
    return float(found[1]) * {"m": 60, "h": 3600}.get(found[2], 1)


def _log(line: str) -> None:
    with suppress(OSError):  # a full disk under the log must not stop the watch
        print(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {printable(line)}", file=sys.stderr, flush=True)  # noqa: T201  a log
