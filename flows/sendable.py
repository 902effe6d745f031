"""What a run on a server must keep: jobs that fit a run's parameters, and somebody who can be asked."""

import json

from flows.jobs import Plan
from quantmill.errors import RecipeError, RequestError
from quantmill.recipe.recipe import Recipe


def require_sendable(plan: Plan, most_bytes: int) -> None:
    """Raise RequestError where a job is too large to be the parameter of a run; 0: the server takes any."""
    for job in (plan.baseline, *plan.others):
        size = len(json.dumps({"job": job.model_dump(mode="json")}, separators=(",", ":")))
        if most_bytes and size > most_bytes:
            raise RequestError(
                f"{job.name}: names {len(job.snapshot.files)} files and {len(job.snapshot.source_types)} types of tensors in"
                f" {size} bytes, a run of the Prefect server takes {most_bytes}; raise PREFECT_SERVER_API_MAX_PARAMETER_SIZE"
                " there and here"
            )


def require_somebody_to_ask(recipe: Recipe, deployed: bool) -> None:
    """Raise RecipeError where the recipe wants an approval and the run cannot wait for one: no server started it."""
    if recipe.publish.approval and not deployed:
        raise RecipeError("publish.approval: only a run that the Prefect server started can wait; allowed here: false")
