"""SCHEMES: the facts of every scheme of model sources; each module here states one as `SCHEME`.

The code that reads a source is in `tasks/source/schemes/`, in a module of the same name.
"""

from importlib import import_module
from pkgutil import iter_modules

from quantmill.recipe.scheme_row import Scheme, Watch, last_part

__all__ = ["SCHEMES", "Scheme", "Watch", "hub_name", "last_part", "require_written", "scheme_of"]


def _read() -> dict[str, Scheme]:
    """Return name -> facts of every module in this folder, by name."""
    names = sorted(module.name for module in iter_modules(__path__))
    found: dict[str, Scheme] = {name: import_module(f"{__name__}.{name}").SCHEME for name in names}
    if wrong := [name for name, row in found.items() if row.name != name or row.prefix not in ("", f"{name}://")]:
        row = found[wrong[0]]
        raise ImportError(f"{__name__}.{wrong[0]}: SCHEME is named {row.name!r}, its prefix is {row.prefix!r}")
    return found


SCHEMES: dict[str, Scheme] = _read()


def scheme_of(source: str) -> Scheme | None:
    """Return the scheme of a source, or None if no scheme has its prefix."""
    name, mark, _ = source.partition("://")
    prefix = f"{name}{mark}" if mark else ""
    return next((row for row in SCHEMES.values() if row.prefix == prefix), None)


def hub_name(source: str) -> str:
    """Return the name of a source's repository on the Hugging Face hub; empty: it is not on the hub."""
    row = scheme_of(source)
    name = source.removeprefix(row.prefix) if row and row.on_hub else ""
    return name if row and row.parse(name) else ""


def require_written(source: str) -> Scheme:
    """Return the scheme of a well-formed source.

    Raises:
        ValueError: there is no such scheme, or the source breaks the scheme's rule; the message is one line.
    """
    row = scheme_of(source)
    if row is None:
        raise ValueError(f"{source}: allowed are {', '.join(row.form for row in SCHEMES.values())}")
    if not row.parse(source.removeprefix(row.prefix)):
        raise ValueError(f"{source}: write it as {row.rule}")
    return row
