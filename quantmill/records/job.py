"""The job that builds and measures one variant: references and keys, no bytes."""

from pydantic import BaseModel, ConfigDict, Field

from quantmill.recipe.recipe import VariantSpec
from quantmill.records.artifact import Origin, Snapshot, TokenSet

_FROZEN = ConfigDict(frozen=True, extra="forbid")


class StageRef(BaseModel):
    """A stage whose result others start from, by its key."""

    model_config = _FROZEN

    stage: str = Field(description="The stage: `conversion`.")
    key: str = Field(description="The key that its result is found under.")


class VariantJob(BaseModel):
    """All that a worker needs to build and measure one variant: references and keys, no bytes."""

    model_config = _FROZEN

    name: str = Field(description="The variant's name.")
    spec: VariantSpec = Field(description="What to make.")
    snapshot: Snapshot = Field(description="From what.")
    calibration: TokenSet | None = Field(default=None, description="Only where the method uses it.")
    evaluation: TokenSet = Field(description="What it is measured on.")
    checkpoint: Origin | None = Field(default=None, description="What is taken as it is; None: the variant is made.")
    needs: tuple[StageRef, ...] = Field(default=(), description="Stages that are made before it.")
    trace_key: str = Field(default="", description="Stage key of the baseline's trace; empty: this job makes it.")
    artifact_key: str = Field(description="Stage key of the quantize stage.")
    body_key: str = Field(description="The same without the companions: what has it differs in those alone.")
    report_key: str = Field(description="Stage key of the evaluate stage.")
    speed_key: str = Field(default="", description="Stage key of its speed, which names the machine's class.")
    hardware: str = Field(default="", description="The device of that class; empty: not known to whoever planned.")
    measure_again: str = Field(default="", description="The run that wants its speed anew; empty: none.")
    device: str = Field(description="`cpu`, `cuda` or `cuda:N`.")
    threads: int = Field(ge=1, description="Threads of the engine; some engines' tensors depend on it.")
    arithmetic: str = Field(default="", description="What the engine is told to work in; empty: its own choice.")
    processor: str = Field(
        default="", description="The processor class that the keys are of; empty: the bytes do not depend on it."
    )

    def needed(self, stage: str) -> str:
        """Return the key of a stage that is made before this job; empty: the job does not need the stage."""
        return next((ref.key for ref in self.needs if ref.stage == stage), "")

    @property
    def runtime(self) -> str:
        """The library that loads the artifact."""
        return self.spec.runtime(self.snapshot.origin.architecture.experts)
