"""A run in which every variant was built and judged: what publishing, the summary and MLflow are made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from quantmill.recipe.recipe import Recipe
from quantmill.records.job import VariantJob
from quantmill.records.report import Outcome, Verdict


@dataclass(frozen=True)
class Run:
    """What was asked for, what was made and measured, and what was decided."""

    recipe: Recipe
    variants: tuple[VariantJob, ...]
    """In the recipe's order."""
    baseline: Outcome
    outcomes: Mapping[str, Outcome]
    """Name -> what was made and measured, of all variants at least."""
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    """Variant -> the decision."""
    noise_floor: Mapping[str, float] = field(default_factory=dict)
    """Runtime -> mean KL, in nats per token, that the baseline's own weights show there."""
    forbidden: Mapping[str, str] = field(default_factory=dict)
    """Variant -> why its licence keeps it from being published."""
    id: str = ""
    """Prefect's id of the flow run, for the provenance."""
    began_at: float | None = None
    """Seconds since 1970."""
