"""Checks what a run on a server needs: jobs that fit a run's parameters, and a person to ask."""

import json

from flows.jobs import Plan
from quantmill.errors import RecipeError, RequestError
from quantmill.recipe.recipe import Recipe


def require_sendable(plan: Plan, most_bytes: int) -> None:
    """Raise RequestError if a job exceeds `most_bytes`, the limit of a run's parameters; 0: no limit."""
    for job in (plan.baseline, *plan.others):
        size = len(json.dumps({"job": job.model_dump(mode="json")}, separators=(",", ":")))
        if most_bytes and size > most_bytes:
            raise RequestError(
                f"{job.name}: names {len(job.snapshot.files)} files and {len(job.snapshot.source_types)} types of tensors in"
                f" {size} bytes, a run of the Prefect server takes {most_bytes}; raise PREFECT_SERVER_API_MAX_PARAMETER_SIZE"
                " there and here"
            )


def require_somebody_to_ask(recipe: Recipe, deployed: bool) -> None:
    """Raise RecipeError if the recipe wants an approval and no server started the run.

    Only a run that a server started can wait for an approval.
    """
    if recipe.publish.approval and not deployed:
        raise RecipeError("publish.approval: only a run that the Prefect server started can wait; allowed here: false")
