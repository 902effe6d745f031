"""The job that builds and measures one variant: references and keys, no bytes."""

from pydantic import BaseModel, ConfigDict, Field

from quantmill.recipe.recipe import VariantSpec
from quantmill.records.artifact import Origin, Snapshot, TokenSet

_FROZEN = ConfigDict(frozen=True, extra="forbid")


class StageRef(BaseModel):
    """A reference to a stage's result, by its key."""

    model_config = _FROZEN

    stage: str = Field(description="The stage: `conversion`.")
    key: str = Field(description="The key of its result.")


class VariantJob(BaseModel):
    """Everything that a worker needs to build and measure one variant: references and keys, no bytes."""

    model_config = _FROZEN

    name: str = Field(description="The variant's name.")
    spec: VariantSpec = Field(description="The variant to make.")
    snapshot: Snapshot = Field(description="The model that it is made from.")
    calibration: TokenSet | None = Field(default=None, description="Calibration windows; None: the method uses none.")
    evaluation: TokenSet = Field(description="Evaluation windows.")
    checkpoint: Origin | None = Field(default=None, description="The checkpoint to import; None: the variant is made.")
    needs: tuple[StageRef, ...] = Field(default=(), description="Stages that must be finished before this job.")
    trace_key: str = Field(default="", description="Stage key of the baseline's trace; empty: this job makes it.")
    artifact_key: str = Field(description="Stage key of the quantize stage.")
    body_key: str = Field(description="The same key without the companions: equal keys differ in companions alone.")
    report_key: str = Field(description="Stage key of the evaluate stage.")
    speed_key: str = Field(default="", description="Stage key of its speed, made with the machine's class.")
    hardware: str = Field(default="", description="The device of the machine's class; empty: unknown when planned.")
    measure_again: str = Field(default="", description="Id of the run that asks to measure speed again; empty: none.")
    device: str = Field(description="`cpu`, `cuda` or `cuda:N`.")
    threads: int = Field(ge=1, description="Threads of the engine; the tensors of some engines depend on this number.")
    arithmetic: str = Field(default="", description="The arithmetic that the engine must use; empty: its own choice.")
    processor: str = Field(
        default="", description="The processor class in the keys; empty: the bytes do not depend on the processor."
    )

    def needed(self, stage: str) -> str:
        """Return the key of a stage that this job needs; empty: the job does not need the stage."""
        return next((ref.key for ref in self.needs if ref.stage == stage), "")

    @property
    def runtime(self) -> str:
        """The library that loads the artifact."""
        return self.spec.runtime(self.snapshot.origin.architecture.experts)
