"""Checks whether GPTQModel supports a model.

The facts are read from the engine's sources, because importing it takes up to 15 seconds and patches other libraries.
"""

import ast
from functools import cache
from pathlib import Path

from quantmill.records.artifact import Architecture
from tasks import engine_code
from tasks.model import tensors


def obstacle(model: Architecture, folder: Path) -> str:
    """Return why GPTQModel cannot quantize the model in `folder`; empty: it can.

    The engine's own list of model types and the layout of the weights decide. Each reason was measured (docs/methods.md).
    """
    if (known := types()) and model.model_type not in known:
        return f"GPTQModel does not take {model.model_type} models; it lists {len(known)} types, such as llama"
    if tensors.merged(folder) and "gate_up_proj" not in _definition(model.model_type):
        return "GPTQModel splits gate_up_proj, and the result cannot be opened; autoround and hqq do not split it"
    return ""


@cache
def types() -> frozenset[str]:
    """Return the `model_type`s that GPTQModel takes."""
    return frozenset(_classes())


@cache
def _classes() -> dict[str, str]:
    """Return model type -> name of its class in GPTQModel."""
    table = engine_code.read("gptqmodel", "models/auto.py")
    maps = [value for name, value in engine_code.assigned(table) if name == "MODEL_MAP" and isinstance(value, ast.Dict)]
    pairs = (zip(found.keys, found.values, strict=True) for found in maps)
    return {str(k.value): ast.unparse(v) for found in pairs for k, v in found if isinstance(k, ast.Constant)}


@cache
def _definition(model_type: str) -> str:
    """Return GPTQModel's code for a model type, which lists the modules to quantize."""
    wanted = _classes().get(model_type)
    for node in ast.parse(engine_code.read("gptqmodel", "models/auto.py")).body:
        if isinstance(node, ast.ImportFrom) and any((name.asname or name.name) == wanted for name in node.names):
            return engine_code.read("gptqmodel", f"models/{str(node.module).replace('.', '/')}.py")
    return ""
