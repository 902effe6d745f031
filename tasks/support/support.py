"""What each engine takes, by its own list, and whether a recipe's rules fit the model: asked before any work.

The lists are read from the engines' sources: importing one takes up to 15 seconds and patches other libraries.
"""

import ast
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from quantmill.errors import RecipeError
from quantmill.recipe.variants import VariantSpec
from quantmill.records.artifact import Architecture
from tasks import engine_code
from tasks.model import architecture, tensors
from tasks.support import gguf, gguf_arithmetic

_MINORITY = 0.5  # a method that would leave more than this of the decoder's weights as they are is refused


def require(specs: Iterable[VariantSpec], folder: Path) -> None:
    """Check the variants against the model in `folder`.

    Raises:
        RecipeError: an engine does not take the architecture, or a rule of `layers` matches nothing.
    """
    model = architecture.of_config(folder)
    for spec in specs:
        if spec.method == "imported":
            continue  # no engine works on the model
        if why := refusal(spec.method, model, folder):
            raise RecipeError(f"variants: {spec.name}: {why}")
        chosen = tensors.choose_bits(spec.layers, folder)
        if spec.method != "gguf" and (lone := [name for name in chosen if tensors.renamed(name) != name]):
            raise RecipeError(f"variants: {spec.name}: layers: {lone[0]} has another name in transformers; take gguf")


def refusal(method: str, model: Architecture, folder: Path) -> str:
    """Return why the method cannot do with the model in `folder`, or nothing.

    By the engines' own lists, and by how weights and vocabulary are laid out. Each reason was measured
    (docs/methods.md): the engine fails after work began, or leaves most of the weights as they are.
    """
    if method == "gguf":
        return gguf.obstacle(model.name, folder) or gguf_arithmetic.refusal(
            model.name, architecture.read_config(folder)
        )
    if method in ("gptq", "awq") and (known := gptqmodel_types()) and model.model_type not in known:
        return f"GPTQModel does not take {model.model_type} models; it lists {len(known)} types, llama is one"
    if method == "awq" and architecture.turns_by_layer_type(folder):
        return "GPTQModel's AWQ knows one rotary embedding for all layers, this model has one for each type; gptq can"
    if method == "awq" and tensors.transposed(folder):
        return "GPTQModel's AWQ cannot scale transposed matrices (Conv1D); autoround can round them"
    if method == "gptq" and tensors.transposed(folder):
        return "transformers cannot open GPTQ's layers in place of transposed matrices (Conv1D); autoround's it can"
    if method in ("gptq", "awq") and tensors.merged(folder) and "gate_up_proj" not in _definition(model.model_type):
        return "GPTQModel takes gate_up_proj apart, and what it leaves is not opened; autoround and hqq keep it whole"
    if method in ("bitsandbytes", "hqq") and (share := tensors.expert_share(folder)) > _MINORITY:
        return f"{method} leaves the experts in bf16, {share:.0%} of the decoder's weights; gptq, awq, autoround and gguf take them"
    return ""


@cache
def gptqmodel_types() -> frozenset[str]:
    """Return the `model_type`s that GPTQModel takes."""
    return frozenset(_gptqmodel_classes())


@cache
def _gptqmodel_classes() -> dict[str, str]:
    """Return model type -> class in GPTQModel."""
    table = engine_code.read("gptqmodel", "models/auto.py")
    maps = [value for name, value in engine_code.assigned(table) if name == "MODEL_MAP" and isinstance(value, ast.Dict)]
    pairs = (zip(found.keys, found.values, strict=True) for found in maps)
    return {str(k.value): ast.unparse(v) for found in pairs for k, v in found if isinstance(k, ast.Constant)}


@cache
def _definition(model_type: str) -> str:
    """Return GPTQModel's code for a model type: which of its modules are quantized."""
    wanted = _gptqmodel_classes().get(model_type)
    for node in ast.parse(engine_code.read("gptqmodel", "models/auto.py")).body:
        if isinstance(node, ast.ImportFrom) and any((name.asname or name.name) == wanted for name in node.names):
            return engine_code.read("gptqmodel", f"models/{str(node.module).replace('.', '/')}.py")
    return ""
