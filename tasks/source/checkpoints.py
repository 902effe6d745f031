"""Finds the checkpoints of a recipe's `imported` variants; checks that each is of the recipe's model.

This runs before any work.
"""

from collections.abc import Callable
from typing import TypeVar

from quantmill.errors import RecipeError
from quantmill.recipe.recipe import ModelRequest, Recipe
from quantmill.records.artifact import Architecture, Origin, Preview
from tasks.source import fields

_Found = TypeVar("_Found", bound=Origin | Preview)
_SHAPE = ("layers", "hidden_size", "vocabulary_size")


def find(recipe: Recipe, model: _Found, look: Callable[[ModelRequest], _Found]) -> dict[str, _Found]:
    """Return source -> origin or preview for every `imported` variant; source "" is the model's own.

    Args:
        recipe: the recipe.
        model: the origin or preview of the recipe's model.
        look: returns the origin or preview of a checkpoint's request.

    Raises:
        RecipeError: a checkpoint is not quantized, or is of another model; or the model is quantized already and a variant
            asks for another method than `imported`; or two checkpoints would get the same name.
        SourceError: a checkpoint may not be read.
    """
    found, names = dict[str, _Found](), dict[str, str]()
    for spec in recipe.expand():
        if spec.source_asked is None:
            _require_plain(spec.name, model.architecture)
            continue
        where = f"variants: {spec.name}"
        with fields.named(where):
            found[spec.source_asked] = look(ModelRequest(source=spec.source_asked)) if spec.source_asked else model
        name = _label(where, model.architecture, found[spec.source_asked].architecture)
        if name in names:
            raise RecipeError(
                f"{where}: would be named imported-{name}, as would {names[name]}; use one recipe for each"
            )
        names[name] = spec.source_asked or "the model"
    return found


def _require_plain(name: str, model: Architecture) -> None:
    if model.packing and model.packing.format != "gguf":  # a GGUF is dequantized
        raise RecipeError(
            f"variants: {name}: the model is already quantized with {model.packing.method}; use `method: imported` to take"
            " its weights unchanged, or name the original model as model.source"
        )


def _label(where: str, model: Architecture, found: Architecture) -> str:
    """Return the label of a checkpoint's packing; RecipeError if it is plain or is of another model."""
    if found.packing is None:
        raise RecipeError(
            f"{where}: its weights are not quantized; imported takes GPTQ, AWQ, AutoRound, bitsandbytes, GGUF"
        )
    for field in _SHAPE:
        ours, theirs = getattr(model, field), getattr(found, field)
        if ours != theirs:
            raise RecipeError(
                f"{where}: its {field.replace('_', ' ')} is {theirs}, the model's is {ours}: another model"
            )
    return found.packing.label
