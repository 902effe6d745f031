"""The no-op variant of `benchmarks.scheduling`: a pool runs this flow in place of `flows.variant`.

The module imports what `flows.variant` imports, and the flow stores the records that a line looks up.
"""

import time
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

import flows.variant  # noqa: F401 (its imports are a part of what a run costs)
from flows.recall import recall
from quantmill.files import keys
from quantmill.files.entries import FileEntry
from quantmill.records.artifact import StageResult
from quantmill.records.job import VariantJob
from quantmill.settings import load_settings
from quantmill.store.places import configured_store
from quantmill.store.store import Store
from tests import samples


@flow(name="variant", flow_run_name="{job.name}", persist_result=False, validate_parameters=True)
def variant(job: VariantJob) -> State[None]:
    """Sleep as long as the job's name says (`sleep-2.5-0007`) and record an artifact and a report."""
    store = configured_store(load_settings())
    time.sleep(float(job.name.split("-")[1]))
    artifact = samples.artifact().model_copy(update={"spec": job.spec, "files": job.snapshot.files})
    _record(store, "artifact", job.artifact_key, artifact.model_dump(mode="json"), artifact.files)
    report = samples.report(job.name)
    speed = report.speed.model_copy(update={"hardware": job.hardware, "threads": job.threads})
    report = report.model_copy(update={"artifact_digest": artifact.digest, "speed": speed})
    key = keys.stage_key("report", job=job.report_key, artifact=artifact.made_digest)
    _record(store, "report", key, report.model_dump(mode="json"))
    if recall(job, store) is None:
        raise AssertionError(f"{job.name}: a line would not find the records of this variant")
    return Completed(message="slept")


def _record(store: Store, stage: str, key: str, value: dict[str, Any], blobs: tuple[FileEntry, ...] = ()) -> None:
    store.record(StageResult(stage=stage, key=key, value=value, blobs=blobs, made_at=time.time()))
