"""METHODS: the facts of every quantization method; each module here states those of one as `METHOD`.

Recipes are checked against these facts, `quantmill methods` prints them, and keys are made from them. The code that quantizes is
in `tasks/quantize/methods/`, in a module of the same name.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Literal

from quantmill.recipe.method_row import AS_IT_IS, Method
from quantmill.recipe.options import MethodOptions

__all__ = ["AS_IT_IS", "METHODS", "PROGRAMS", "Method", "MethodName", "MethodOptions"]


def _read() -> dict[str, Method]:
    """Return name -> facts of every module in this folder, in the order of tables and menus."""
    found = {module.name: import_module(f"{__name__}.{module.name}").METHOD for module in iter_modules(__path__)}
    if wrong := [name for name, method in found.items() if method.name != name]:
        raise ImportError(f"{__name__}.{wrong[0]}: METHOD is named {found[wrong[0]].name}; the module must be too")
    return dict(sorted(found.items(), key=lambda pair: (pair[1].position, pair[0])))


METHODS: dict[str, Method] = _read()
PROGRAMS: tuple[str, ...] = tuple(dict.fromkeys(rule.program for row in METHODS.values() for rule in row.programs))
"""Allowed values of `--where runtime=`."""

if TYPE_CHECKING:
    MethodName = str
else:
    MethodName = Literal[tuple(METHODS)]
