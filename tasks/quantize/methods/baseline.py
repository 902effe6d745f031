"""The baseline: a copy of the snapshot's bf16 weights."""

import shutil

from quantmill.recipe.methods import MethodOptions
from quantmill.records.artifact import QuantizedTensor
from tasks.model import tensors
from tasks.quantize.work import Work


def quantize(work: Work[MethodOptions]) -> list[QuantizedTensor]:
    """Copy the weights. With links, a later change of the snapshot would change published files."""
    for path in work.source.iterdir():
        if path.suffix == ".safetensors" or path.name.endswith(".index.json"):
            shutil.copyfile(path, work.out / path.name)
    work.progress("copy", 1, 1)
    return tensors.account(work.source, work.out, scheme="bf16")
