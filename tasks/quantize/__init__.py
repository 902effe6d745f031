"""Stage 4: a variant's artifact is made. `methods/` has a module for each method."""

from tasks.quantize.quantize import find_artifact, find_body, make_artifact
from tasks.quantize.require import require

__all__ = ["find_artifact", "find_body", "make_artifact", "require"]
