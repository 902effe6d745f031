"""Records a compress run in MLflow. Only this module and `models.py` write to MLflow.

MLflow is a notebook, never the source of truth: a version's source is `quantmill://model/variant@manifest`, and the bytes
stay in the store. This module uses only MLflow's client API, because the fluent API keeps state in the process, and flows
run in threads.
"""

import math
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from quantmill.recipe.recipe import Recipe
from quantmill.records.report import Outcome, RunSummary, VariantSummary
from tasks.register import models as registry
from tasks.tracking import database, failing_in_a_line

if TYPE_CHECKING:
    from mlflow import MlflowClient

# The figures of a variant's row; the baseline has some of them.
_FIGURES = [
    name for name, field in VariantSummary.model_fields.items() if field.annotation in (int | None, float | None)
]
_TAG_LENGTH = 5000  # MLflow's limit on older servers.
_DELIVERY_TAG = "quantmill.delivery"


def register_run(
    recipe: Recipe,
    summary: RunSummary,
    outcomes: Mapping[str, Outcome],
    manifests: Mapping[str, str],
    uri: str,
    report_files: Mapping[str, bytes],
    logs: Mapping[str, Path],
    delivery: str = "",
) -> str:
    """Record one run with one child per variant, and accepted variants as versions; return the run's id.

    Args:
        recipe: the recipe of the run.
        summary: the summary of the run.
        outcomes: variant -> its artifact and report.
        manifests: accepted variant -> the digest of its manifest; each manifest gets one version, once.
        uri: MLflow's address, `sqlite:///...` or `http://...`.
        report_files: file name -> bytes, stored with the parent run.
        logs: variant -> its job's log, stored with the child run if the file exists.
        delivery: the delivery's name; its finished run is returned, its unfinished runs are replaced. Empty: a new run.

    Raises:
        RegistrationError: MLflow cannot be reached or refuses.
    """
    outcome = f"{len(manifests)} accepted variants are published, `quantmill register` registers them"
    with failing_in_a_line(uri, outcome) as client:
        experiment = _experiment(client, summary.model, uri)
        if delivery and (whole := _recorded(client, experiment, delivery)):
            return whole
        parent = _start_parent(client, experiment, recipe, summary, delivery)
        state = "FAILED"  # If anything fails: a run that stays RUNNING would look as if somebody still works on it.
        try:
            for name, content in report_files.items():
                _log_bytes(client, parent, name, content)
            children = {
                variant.name: _record_variant(client, experiment, parent, summary, variant, outcomes, logs)
                for variant in summary.variants
            }
            versions = {
                variant.name: registry.register_version(
                    client, summary.model, variant, manifests[variant.name], children[variant.name]
                )
                for variant in summary.variants
                if variant.name in manifests
            }
            registry.move_aliases(client, summary, versions)
            state = "FINISHED"
        finally:
            client.set_terminated(parent, state)
        return parent


def _recorded(client: "MlflowClient", experiment: str, delivery: str) -> str:
    """Return the id of a delivery's finished run; if there is none, delete unfinished runs and return ''."""
    found = client.search_runs([experiment], f"tags.`{_DELIVERY_TAG}` = '{delivery}'")
    if whole := next((run.info.run_id for run in found if run.info.status == "FINISHED"), ""):
        return str(whole)
    for run in found:
        for child in client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"):
            client.delete_run(child.info.run_id)
        client.delete_run(run.info.run_id)
    return ""


def _experiment(client: "MlflowClient", name: str, uri: str) -> str:
    """Return the id of the model's experiment; with SQLite, its artifacts are stored beside the database."""
    from mlflow.exceptions import MlflowException

    if found := client.get_experiment_by_name(name):
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)
    file = database.database(uri)
    location = database.artifacts_of(file, name) if file else None
    try:
        return str(client.create_experiment(name, artifact_location=location))
    except MlflowException:
        # Another run of the same model may have created the experiment meanwhile; anything else is an error.
        if found := client.get_experiment_by_name(name):
            return str(found.experiment_id)
        raise


def _start_parent(client: "MlflowClient", experiment: str, recipe: Recipe, summary: RunSummary, delivery: str) -> str:
    tags = {
        "mlflow.note.content": _note(summary),
        "quantmill.model": summary.model,
        "quantmill.source": summary.source,
        **({_DELIVERY_TAG: delivery} if delivery else {}),
    }
    parent = _start(client, experiment, f"compress {summary.model}", tags)
    _log_params(
        client,
        parent,
        {**_flat("", recipe.model_dump(mode="json", exclude={"variants"})), "source_digest": summary.source_digest},
    )
    baseline = {
        f"baseline_{name}": getattr(summary.baseline, name) for name in _FIGURES if hasattr(summary.baseline, name)
    }
    counts = {s: float(sum(v.status == s for v in summary.variants)) for s in ("accepted", "rejected", "failed")}
    floors = {f"noise_floor_{runtime}": kl for runtime, kl in summary.noise_floor.items()}
    timings = {f"{stage}_s": seconds for stage, seconds in summary.timings.items()}
    _log_metrics(client, parent, {**baseline, **counts, **floors, **timings})
    return parent


def _note(summary: RunSummary) -> str:
    """Return the description of a run that MLflow shows."""
    lines = [f"- **{v.name}**: {v.status}{'; ' + '; '.join(v.reasons) if v.reasons else ''}" for v in summary.variants]
    return "\n".join([f"{len(summary.accepted)} of {len(summary.variants)} variants accepted.", "", *lines])


def _record_variant(
    client: "MlflowClient",
    experiment: str,
    parent: str,
    summary: RunSummary,
    variant: VariantSummary,
    outcomes: Mapping[str, Outcome],
    logs: Mapping[str, Path],
) -> str:
    """Record one variant, also a rejected or failed one, and return its run's id."""
    tags = {
        "mlflow.parentRunId": parent,
        "mlflow.note.content": "; ".join(variant.reasons) or variant.status,
        "quantmill.status": variant.status,
        "quantmill.reasons": "\n".join(variant.reasons),
        "quantmill.marks": ", ".join(variant.marks),
        "quantmill.cached": str(variant.cached).lower(),
        "quantmill.pareto": str(variant.name in summary.pareto).lower(),
    }
    child = _start(client, experiment, variant.name, tags)
    outcome = outcomes.get(variant.name)
    _log_params(client, child, {**_variant_params(variant, outcome), "source_digest": summary.source_digest})
    _log_metrics(client, child, {name: getattr(variant, name) for name in _FIGURES})
    if outcome and outcome.report:
        _log_bytes(client, child, "evaluation.json", outcome.report.model_dump_json(indent=2).encode())
    log = logs.get(variant.name)
    if log and log.is_file():
        client.log_artifact(child, str(log), "logs")
    client.set_terminated(child, "FAILED" if variant.status == "failed" else "FINISHED")
    return child


def _variant_params(variant: VariantSummary, outcome: Outcome | None) -> dict[str, str]:
    params = {"method": variant.method, "bits": str(variant.bits), "format": variant.format}
    if outcome and outcome.artifact:
        params |= _flat("", outcome.artifact.spec.canonical())
        params |= _flat("toolchain.", outcome.artifact.toolchain)
        params |= {"artifact_digest": outcome.artifact.digest, "hardware": outcome.artifact.hardware}
    if outcome and outcome.report:
        params |= {"runtime": outcome.report.runtime, "runtime_version": outcome.report.runtime_version}
    if outcome and outcome.error:
        params["error"] = outcome.error
    return params


def _flat(prefix: str, value: Mapping[str, object]) -> dict[str, str]:
    """Return nested settings as flat MLflow parameters, such as `calibration.samples` -> `32`."""
    flat: dict[str, str] = {}
    for key, item in value.items():
        flat |= _flat(f"{prefix}{key}.", item) if isinstance(item, dict) else {f"{prefix}{key}": str(item)}
    return flat


def _start(client: "MlflowClient", experiment: str, name: str, tags: Mapping[str, str]) -> str:
    """Create a run and return its id."""
    short = {key: value[:_TAG_LENGTH] for key, value in tags.items()}
    run = client.create_run(experiment, run_name=name, tags={"mlflow.source.name": "quantmill compress", **short})
    return str(run.info.run_id)


def _log_params(client: "MlflowClient", run: str, params: Mapping[str, str]) -> None:
    from mlflow.entities import Param

    # Package names may contain characters that MLflow does not allow in keys.
    entries = [Param(re.sub(r"[^\w ./:-]", "_", key), value[:_TAG_LENGTH]) for key, value in params.items()]
    for start in range(0, len(entries), 100):  # MLflow's limit of one request.
        client.log_batch(run, params=entries[start : start + 100])


def _log_metrics(client: "MlflowClient", run: str, metrics: Mapping[str, float | None]) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    # SQL backends and charts cannot handle NaN, so it is left out here; the report keeps it.
    known = {key: value for key, value in metrics.items() if value is not None and math.isfinite(value)}
    entries = [Metric(re.sub(r"[^\w ./-]", "_", key), float(value), now, 0) for key, value in known.items()]
    client.log_batch(run, metrics=entries)


def _log_bytes(client: "MlflowClient", run: str, name: str, content: bytes) -> None:
    # The client has no method for bytes: `log_text` takes text only.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        client.log_artifact(run, str(path))
