"""The flow that builds one variant on a pool or on this machine: quantize, then evaluate.

Its only input is the job; all its results go into the store.
"""

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

    On an error the run ends `Failed`; the name of the state is the error's class, so that the line that waits can tell
    out of memory from an engine's error.
    """
    settings = load_settings()
    store, sandbox = configured_store(settings), Sandbox(settings, str(flow_run.id or ""))
    try:
        # A line that runs variants in its own process shows their progress itself.
        with progress_shown(PROGRESS) if is_deployed() else nullcontext():
            artifact = make(job, store, sandbox)
            stopping.require_going(f"evaluate {job.name}")  # raised here, a stop makes no task fail
            report = measure(job, artifact, store, sandbox)
    except QuantmillError as error:
        return Failed(name=type(error).__name__, message=str(error))
    return Completed(message=f"perplexity {report.quality.perplexity:.2f}, mean KL {report.quality.mean_kl:.4g}")
