"""Checks, before any work and without an engine, whether a recipe's variants fit the model.

Each method must support the model, and each rule of `layers` must match a layer.
"""

from collections.abc import Iterable
from pathlib import Path

from quantmill.errors import RecipeError
from quantmill.recipe.methods import METHODS, Method
from quantmill.recipe.recipe import VariantSpec
from quantmill.records.artifact import Architecture
from tasks.model import architecture, tensors
from tasks.quantize.work import method_module

_MINORITY = 0.5
"""A method is refused if it would leave more than this share of the decoder's weights unquantized."""


def require(specs: Iterable[VariantSpec], folder: Path) -> None:
    """Check the variants against the model in `folder`.

    Raises:
        RecipeError: a method does not support the model, or a rule of `layers` matches nothing.
    """
    model = architecture.of_config(folder)
    for spec in specs:
        if spec.method == "imported":
            continue  # no engine works on the model
        if why := _obstacle(spec.row, model, folder):
            raise RecipeError(f"variants: {spec.name}: {why}")
        chosen = tensors.choose_bits(spec.layers, folder)
        if not spec.row.needs and (lone := [name for name in chosen if tensors.renamed(name) != name]):
            raise RecipeError(f"variants: {spec.name}: layers: {lone[0]} has another name in transformers; use gguf")


def _obstacle(row: Method, model: Architecture, folder: Path) -> str:
    """Return why a method cannot quantize the model; empty if it can."""
    if row.leaves_experts and (share := tensors.expert_share(folder)) > _MINORITY:
        others = ", ".join(other.name for other in METHODS.values() if other.engines and not other.leaves_experts)
        return f"{row.name} leaves the experts in bf16, {share:.0%} of the decoder's weights; these take them: {others}"
    ask = getattr(method_module(row.name), "obstacle", None)
    return str(ask(model, folder)) if ask else ""
