"""The input of a method's module: one variant's files, options and folders. Used inside a job."""

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
    """An empty folder for the weights and the other files that the engine writes."""
    bits: int
    kind: str
    """The named type, such as `nf4` or `Q4_K_M`; empty: the number of bits is enough."""
    layers: tuple[LayerRule, ...]
    """Rules for single layers, with the layer names of the checkpoint."""
    options: O_co
    """The method's options."""
    calibration: Path | None
    """A token set in safetensors, `input_ids` (windows, length); None: the method is not calibrated."""
    device: str
    arithmetic: str
    """The type in which the engine computes: `bfloat16` or `float32`."""
    progress: Progress

    @property
    def windows(self) -> Path:
        """The file of the calibration windows.

        Raises:
            ValueError: there are no calibration windows.
        """
        if self.calibration is None:
            raise ValueError("the method needs calibration windows")
        return self.calibration


class MethodModule(Protocol):
    """A module of `tasks/quantize/methods/`. A module without `obstacle` supports every model."""

    def quantize(self, work: Work[MethodOptions]) -> list[QuantizedTensor]:
        """Fill `work.out` and return one record for each weight tensor."""
        ...

    def obstacle(self, model: Architecture, folder: Path) -> str:
        """Return why the method cannot quantize the model in `folder`; empty if it can. Import no engine."""
        ...


def method_module(name: str) -> MethodModule:
    """Return the module that does a method's work."""
    return cast(MethodModule, import_module(f"tasks.quantize.methods.{name}"))
