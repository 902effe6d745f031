"""The questions about the frozen home.

`make_home.py` asked the code of commit f5273e7, `tests/whole/test_frozen_home.py` asks today's code.
"""

import json
from pathlib import Path
from typing import Any

VARIANTS = (
    "bitsandbytes-int8", "bitsandbytes-nf4", "gptq-4bit-g32", "awq-4bit-g32", "hqq-4bit-g32", "autoround-4bit-g32-i2",
    "gguf-q8_0", "gguf-q4_0",
)  # fmt: skip
SETTINGS = {
    "QUANTMILL_HOME": "home",
    "QUANTMILL_THREADS": "1",
    "QUANTMILL_STAGE_DAYS": "36500",
    "QUANTMILL_MLFLOW_URI": "http://127.0.0.1:9",  # nobody answers there: what waits in the outbox goes on waiting
    "QUANTMILL_KEYRING": "keys/keyring",
}
_OF_THE_MOMENT = {"id", "made_at", "timings", "seconds"}


def command(*words: str, json_file: str = "-") -> Any:
    """Return the JSON that a command answers in the working directory; without `json_file` nothing."""
    from typer.testing import CliRunner

    from quantmill import cli

    if not {"export"} & {known.name for known in cli.app.registered_commands}:
        cli._add_factory()
    ran = CliRunner().invoke(cli.app, [*words, *(["--json", json_file] if json_file else [])])
    if ran.exit_code:
        raise AssertionError((words, ran.exit_code, ran.output, ran.exception))
    return plain(json.loads(ran.stdout)) if json_file else None


def plain(value: Any) -> Any:
    """Return an answer without the place where it was given and without its moment."""
    if isinstance(value, dict):
        return {name: plain(held) for name, held in value.items() if name not in _OF_THE_MOMENT}
    if isinstance(value, list | tuple):
        return [plain(held) for held in value]
    return value.replace(str(Path.cwd()), "PLACE") if isinstance(value, str) else value


def files(folder: Path) -> dict[str, str]:
    """Return path -> sha256 of all files below a folder."""
    from quantmill.files import keys

    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): keys.file_sha256(path) for path in found}


def consuming() -> dict[str, Any]:
    """Return what those who read a store are answered; the channel is moved at the end."""
    from quantmill.client.watch import Watch
    from quantmill.signing.signing import Keyring
    from quantmill.store.collect import Rules, find
    from quantmill.store.places import open_store

    store = open_store("home/store", 36500)
    said = {name: command(*name.split()) for name in ("list", "show frozen", "channels frozen", "gc --dry-run")}
    said["what nothing needs"] = [one.listed.key for one in find(store, Rules(0.0, 0.0, 1, 0.0))]
    for variant in VARIANTS:
        words = ("pull", "frozen", "--channel", "stable", "--variant", variant, "--to", f"to/{variant}")
        said[f"pull {variant}"] = command(*words)
        said[f"files of {variant}"] = files(Path("to", variant, "current").resolve())
        said[f"verify {variant}"] = command("verify", f"to/{variant}")
    asked = ("pull", "frozen", "--where", "runtime=llama.cpp,size<1MB", "--best", "size", "--to", "to/where")
    said["pull --where"] = command(*asked)
    lines: list[str] = []
    ring = Keyring.load(Path("keys/keyring"))
    watch = Watch(store, "frozen", "stable", Path("to/watch"), variant="gguf-q8_0", keyring=ring, say=lines.append)
    said["watch"] = watch.round().digest
    back = ("rollback", "frozen", "--channel", "stable", "--reason", "as before")
    said["rollback"] = command(*back)
    said["watch after it"] = watch.round().digest
    return said


def producing() -> dict[str, Any]:
    """Return what the factory answers: its own part of the store, and versions that leave it."""
    from quantmill.store.places import open_store
    from tasks.landing import landings
    from tasks.register import outbox

    store = open_store("home/store", 36500)
    command("export", "frozen", "gguf-q8_0", "out", json_file="")
    held = [store.objects.read(f"outbox/{name}.json") for name in outbox.waiting(store)]
    waiting = [outbox.PendingRun.model_validate_json(each.data) for each in held if each]
    return {
        "files of export": files(Path("out")),
        "landings that no run took": [plain(landing.model_dump(mode="json")) for landing in landings.unbegun(store)],
        "landings that were seen": [landings.is_known(store, model, "1") for model in ("first", "second", "third")],
        "runs that wait": [
            plain(pending.model_dump(mode="json", include={"recipe", "summary"})) for pending in waiting
        ],
    }


def cached() -> dict[str, Any]:
    """Return what a rerun of both recipes answers."""
    return {f"compress {name}": command("compress", f"{name}.json") for name in ("first", "second")}
