"""Stage 4: makes the artifact of a variant. `methods/` has one module for each method."""

from tasks.quantize.quantize import find_artifact, find_body, make_artifact
from tasks.quantize.require import require

__all__ = ["find_artifact", "find_body", "make_artifact", "require"]
