"""Artifact folder -> logits, generated ids, speed: one module for each library that loads artifacts; inside a job.

The method's row chooses the library. `runtime` imports its module: `load(folder, machine, context, scoring)`, and `PACKAGE`, the
package whose version counts.
"""

from importlib import import_module
from typing import Any

from tasks.runtimes.head import Head, Transform
from tasks.runtimes.protocol import LoadedModel, Machine, TracedModel

__all__ = ["Head", "LoadedModel", "Machine", "TracedModel", "Transform", "runtime"]


def runtime(name: str) -> Any:
    """Return the module of a library, which is imported now: `transformers`, `hqq`, `gptqmodel` or `llama_cpp`."""
    return import_module(f"{__name__}.{name}")
