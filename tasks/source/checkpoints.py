"""Which finished checkpoints a recipe takes as they are, and whether each is one of the recipe's model: asked before any work."""

from collections.abc import Callable
from typing import TypeVar

from quantmill.errors import RecipeError
from quantmill.recipe.recipe import ModelRequest, Recipe
from quantmill.records.artifact import Architecture, Origin, Preview
from tasks.source import fields

_Found = TypeVar("_Found", bound=Origin | Preview)
_SHAPE = ("layers", "hidden_size", "vocabulary_size")


def find(recipe: Recipe, model: _Found, look: Callable[[ModelRequest], _Found]) -> dict[str, _Found]:
    """Return source -> what lies there for every `imported` variant; an empty source is the model's own.

    Args:
        recipe: what is asked for.
        model: what lies at the model's source.
        look: what tells what lies at another.

    Raises:
        RecipeError: it is no quantized checkpoint, or one of another model; or the model is quantized and another method
            is asked for; or two checkpoints would have one name.
        SourceError: what lies there may not be read.
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
            raise RecipeError(f"{where}: is imported-{name}, which {names[name]} is too; publish them by two recipes")
        names[name] = spec.source_asked or "the model"
    return found


def _require_plain(name: str, model: Architecture) -> None:
    if model.packing and model.packing.format != "gguf":  # a GGUF is dequantized, as it always was
        raise RecipeError(
            f"variants: {name}: the model is quantized with {model.packing.method} already; `method: imported` takes it as"
            " it is, or name the original model as model.source"
        )


def _label(where: str, model: Architecture, found: Architecture) -> str:
    """Return how the checkpoint is called; refuse one that is not quantized, or not of this model."""
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
