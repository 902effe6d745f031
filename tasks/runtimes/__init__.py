"""Loads artifact folders to compute logits and generate tokens, inside a job: one module per library.

The method's row chooses the library. `runtime` imports the library's module, which has `load(folder, machine, context,
scoring)` and `PACKAGE`, the package whose version the report records.
"""

from importlib import import_module
from typing import Any

from tasks.runtimes.head import Head, Transform
from tasks.runtimes.protocol import LoadedModel, Machine, TracedModel

__all__ = ["Head", "LoadedModel", "Machine", "TracedModel", "Transform", "runtime"]


def runtime(name: str) -> Any:
    """Import and return a library's module: `transformers`, `hqq`, `gptqmodel` or `llama_cpp`."""
    return import_module(f"{__name__}.{name}")
