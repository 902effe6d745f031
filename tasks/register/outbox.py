"""The outbox of runs that MLflow does not have yet.

A run gets an entry before MLflow is asked, and loses it after MLflow has the run. The entries are in the store, not in the
home, because the machine of the run may be gone when MLflow answers again; any machine with access to the store can
deliver. A process takes an entry by compare-and-swap, for as long as a delivery may last, so only one process delivers it.

    outbox/<milliseconds>-<random>.json
"""

import json
import os
import secrets
import socket
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quantmill.errors import QuantmillError, RegistrationError
from quantmill.recipe.recipe import Recipe
from quantmill.records.artifact import StageResult
from quantmill.records.report import Outcome, RunSummary
from quantmill.store.store import Store
from tasks import report
from tasks.register import models as registry
from tasks.register import runs as register
from tasks.tracking import require_answer

_FOLDER = "outbox/"
_TAKEN_S = 600.0


class PendingRun(BaseModel):
    """An entry of the outbox: a run that MLflow does not have yet."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(description="The delivery's name: MLflow gets one run for it, however often delivery is tried.")
    recipe: Recipe = Field(description="The recipe of the run.")
    summary: RunSummary = Field(description="The summary of the run.")
    outcomes: dict[str, Outcome] = Field(description="Variant -> its artifact and report.")
    logs: dict[str, Path] = Field(description="Variant -> its job's log; sent if the file still exists.")
    run_key: str = Field(default="", description="Stage key of the run's summary; the MLflow run is recorded under it.")
    taken_until: float = Field(default=0.0, description="Seconds since 1970 until which a process holds the entry.")
    taken_by: str = Field(default="", exclude_if=lambda who: not who, description="The holder: process and host.")


class Delivery(NamedTuple):
    """The result of a delivery of the whole outbox."""

    runs: dict[str, str]
    """Delivered entry -> the id of its MLflow run."""
    waiting: int
    """The number of entries that still wait."""
    problems: tuple[str, ...]
    """Why entries still wait, one line each."""


def keep(
    recipe: Recipe,
    summary: RunSummary,
    outcomes: Mapping[str, Outcome],
    logs: Mapping[str, Path],
    store: Store,
    run_key: str = "",
) -> str:
    """Add a run to the outbox and return the entry's name; `run_key` is the stage key of its summary."""
    name = f"{time.time_ns() // 1_000_000:014d}-{secrets.token_hex(4)}"
    places = {variant: path.absolute() for variant, path in logs.items()}
    pending = PendingRun(id=name, recipe=recipe, summary=summary, outcomes=dict(outcomes), logs=places, run_key=run_key)
    store.objects.create(_key(name), _document(pending))
    return name


def waiting(store: Store) -> list[str]:
    """Return the names of the entries, oldest first."""
    return [listed.key.removeprefix(_FOLDER).removesuffix(".json") for listed in store.objects.under(_FOLDER)]


def deliver(store: Store, uri: str) -> Delivery:
    """Deliver all waiting runs to MLflow, oldest first, so that aliases end at the newest versions."""
    names, runs, problems = waiting(store), dict[str, str](), list[str]()
    try:
        if names:
            require_answer(uri, f"{len(names)} runs wait for it: `quantmill register` delivers them")
    except RegistrationError as error:
        return Delivery({}, len(names), (str(error),))
    for name in names:
        try:
            if run := _deliver(name, store, uri):
                runs[name] = run
        except (QuantmillError, ValidationError) as error:
            words = " ".join(str(error).split())[:300]
            problems.append(words if isinstance(error, QuantmillError) else f"{store.uri}/{_key(name)}: {words}")
    return Delivery(runs, len(waiting(store)), tuple(problems))


def _deliver(name: str, store: Store, uri: str) -> str:
    """Deliver an entry and return the id of its MLflow run; empty if another process just took the entry.

    Raises:
        RegistrationError: MLflow failed, or another process holds the entry; the message says which and until when.
    """
    held = store.objects.read(_key(name))
    if held is None:
        return ""
    pending, now = PendingRun.model_validate_json(held.data), time.time()
    if pending.taken_until > now:
        until = datetime.fromtimestamp(pending.taken_until, UTC).isoformat(" ", "seconds").replace("+00:00", " UTC")
        who = pending.taken_by or "another process"
        raise RegistrationError(f"outbox: {name}: {who} delivers it; from {until} on `quantmill register` takes it")
    me = {"taken_until": now + _TAKEN_S, "taken_by": f"process {os.getpid()} on {socket.gethostname()}"}
    if not store.objects.swap(_key(name), _document(pending.model_copy(update=me)), held.tag):
        return ""
    summary = pending.summary
    manifests = {row.name: row.manifest for row in summary.variants if row.manifest}
    pages = report.pages(summary, pending.recipe.gates)
    try:
        run = register.register_run(
            pending.recipe, summary, pending.outcomes, manifests, uri, pages, pending.logs, delivery=name
        )
        registry.show_revocations(store, summary.model, uri)
    except QuantmillError:
        store.objects.replace(_key(name), held.data)
        raise
    if pending.run_key:
        value = {"mlflow_run": run}
        store.record(StageResult(stage="registered", key=pending.run_key, value=value, made_at=time.time()))
    store.objects.delete(_key(name))
    return run


def run_of(run_key: str, store: Store) -> str:
    """Return the id of a run's MLflow run; empty if the run was not delivered yet.

    Args:
        run_key: the stage key of the run's summary.
        store: the store of the run.
    """
    told = store.look_up("registered", run_key)
    return str(told.value.get("mlflow_run", "")) if told else ""


def _document(pending: PendingRun) -> bytes:
    return json.dumps(pending.model_dump(mode="json")).encode()  # not canonical: a figure may be NaN


def _key(name: str) -> str:
    return f"{_FOLDER}{name}.json"
