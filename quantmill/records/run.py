"""The record of a run whose variants were built and judged: input of publish, summary and MLflow."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from quantmill.recipe.recipe import Recipe
from quantmill.records.job import VariantJob
from quantmill.records.report import Outcome, Verdict


@dataclass(frozen=True)
class Run:
    """A run's recipe, its jobs and their outcomes, and the verdicts."""

    recipe: Recipe
    variants: tuple[VariantJob, ...]
    """In the recipe's order."""
    baseline: Outcome
    outcomes: Mapping[str, Outcome]
    """Name -> outcome; holds at least all variants."""
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    """Variant -> the decision."""
    noise_floor: Mapping[str, float] = field(default_factory=dict)
    """Runtime -> mean KL of the baseline's own weights in that runtime, in nats per token."""
    forbidden: Mapping[str, str] = field(default_factory=dict)
    """Variant -> why its licence forbids publishing it."""
    id: str = ""
    """Prefect's id of the flow run, for the provenance."""
    began_at: float | None = None
    """When the run began, seconds since 1970."""
