"""What a method's module gets: one variant's inputs, choices and folders. Inside a job."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Generic, Protocol, TypeVar, cast

from quantmill.recipe.layer_rules import LayerRule
from quantmill.recipe.methods import MethodOptions
from quantmill.records.artifact import Architecture, QuantizedTensor
from tasks.sandbox import Progress

O_co = TypeVar("O_co", bound=MethodOptions, covariant=True)


@dataclass(frozen=True)
class Work(Generic[O_co]):
    """One variant to make."""

    source: Path
    """The snapshot's folder."""
    needed: Mapping[str, Path]
    """Stage that the method needs -> the folder with its result; `conversion` has `model.gguf` and `names.json`."""
    out: Path
    """An empty folder, which gets the weights and what the engine writes beside them."""
    bits: int
    kind: str
    """The named type: `nf4`, `Q4_K_M`; empty: the bits say enough."""
    layers: tuple[LayerRule, ...]
    """Rules for single layers, by the checkpoint's names."""
    options: O_co
    """The method's own choices."""
    calibration: Path | None
    """A token set in safetensors, `input_ids` (windows, length); None: the method is not calibrated."""
    device: str
    arithmetic: str
    """What the engine computes in: `bfloat16` or `float32`."""
    progress: Progress

    @property
    def windows(self) -> Path:
        """The calibration windows.

        Raises:
            ValueError: the method has none.
        """
        if self.calibration is None:
            raise ValueError("the method needs calibration windows")
        return self.calibration


class MethodModule(Protocol):
    """A module of `tasks/quantize/methods/`. `obstacle` may be missing: the method takes every model."""

    def quantize(self, work: Work[MethodOptions]) -> list[QuantizedTensor]:
        """Fill `work.out` and return one record for each weight tensor."""
        ...

    def obstacle(self, model: Architecture, folder: Path) -> str:
        """Return why the method cannot quantize the model in `folder`, or an empty text. Imports no engine."""
        ...


def method_module(name: str) -> MethodModule:
    """Return the module of a method."""
    return cast(MethodModule, import_module(f"tasks.quantize.methods.{name}"))
