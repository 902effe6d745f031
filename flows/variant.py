"""One variant: quantize, then evaluate. What a pool runs; all that it needs is its job, all that it leaves is in the store."""

from contextlib import nullcontext

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows.show.pages import progress_shown
from flows.stages import as_task, is_deployed
from quantmill.errors import QuantmillError
from quantmill.records.job import VariantJob
from quantmill.settings import load_settings
from quantmill.store.places import configured_store
from tasks.evaluate import measure_artifact
from tasks.quantize import make_artifact
from tasks.sandbox import PROGRESS, Sandbox, stopping

make = as_task(make_artifact, "quantize {job.name}")
measure = as_task(measure_artifact, "evaluate {job.name}")


@flow(name="variant", flow_run_name="{job.name}", persist_result=False, validate_parameters=True)
def variant(job: VariantJob) -> State[None]:
    """Build and measure one variant; completed means that its artifact and report are in the store.

    It ends `Failed` under the name of the error's class, so that whoever waits can tell out of memory from a bad engine.
    """
    settings = load_settings()
    store, sandbox = configured_store(settings), Sandbox(settings, str(flow_run.id or ""))
    try:
        # A line that runs its variants itself shows the progress of all of them.
        with progress_shown(PROGRESS) if is_deployed() else nullcontext():
            artifact = make(job, store, sandbox)
            stopping.require_going(f"evaluate {job.name}")  # here it is no task that failed
            report = measure(job, artifact, store, sandbox)
    except QuantmillError as error:
        return Failed(name=type(error).__name__, message=str(error))
    return Completed(message=f"perplexity {report.quality.perplexity:.2f}, mean KL {report.quality.mean_kl:.4g}")
