"""Inside a job: a variant's artifact folder is made, taken over from a finished checkpoint, or dressed anew."""

import shutil
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from quantmill.recipe.packing import Packing
from quantmill.recipe.recipe import VariantSpec
from quantmill.records.artifact import COMPANIONS
from tasks.quantize.work import Work, method_module
from tasks.sandbox import JobArguments, Progress, here


class Make(JobArguments):
    """An artifact that a method makes."""

    kind: Literal["artifact"] = "artifact"
    spec: VariantSpec
    source: Path
    """The snapshot."""
    needed: dict[str, Path]
    """Stage that the method needs -> the folder with its result."""
    calibration: Path | None
    """The calibration windows, where the method uses them."""
    device: str
    arithmetic: str
    """What the engine is told to compute in."""


class TakeOver(JobArguments):
    """A finished checkpoint to take over."""

    kind: Literal["imported"] = "imported"
    checkpoint: Path
    """A folder, or a GGUF file."""
    files: tuple[str, ...]
    """Which of its files."""
    packing: Packing
    companions: Path
    """The snapshot of the model that it is a checkpoint of."""
    device: str


class Dress(JobArguments):
    """An artifact whose model has other companions now."""

    kind: Literal["dress"] = "dress"
    artifact: Path
    """A folder with the artifact's GGUF files, if it has any."""
    source: Path
    """The snapshot."""


Arguments = Annotated[Make | TakeOver | Dress, Field(discriminator="kind")]


def run(arguments: Make | TakeOver | Dress, out: Path, progress: Progress) -> dict[str, Any]:
    """Fill `out`; return what became of each tensor, and what the artifact's record says beside it."""
    if isinstance(arguments, Dress):
        return _dress(arguments, out, progress)
    if isinstance(arguments, TakeOver):
        return _take_over(arguments, out, progress)
    return _make(arguments, out, progress)


def _make(arguments: Make, out: Path, progress: Progress) -> dict[str, Any]:
    here.compile_nothing(arguments.device)
    from tasks.model import config_forms, stored_types
    from tasks.tokenizer import same_text

    starved = _starved_experts(arguments.source, arguments.calibration, progress)
    spec = arguments.spec
    work = Work(
        source=arguments.source,
        needed=arguments.needed,
        out=out,
        bits=spec.bits,
        kind=spec.type or "",
        layers=spec.layers,
        options=spec.options,
        calibration=arguments.calibration,
        device=arguments.device,
        arithmetic=arguments.arithmetic,
        progress=progress,
    )
    tensors = method_module(spec.method).quantize(work)
    stored_types.check(arguments.source, out, tensors)
    _complete(arguments.source, out)
    config_forms.complete(out / "config.json")
    recut = 0
    for gguf in out.glob("*.gguf"):
        progress("check the tokenizer", 0, 1)
        recut = same_text.require_checked(arguments.source, arguments.needed["conversion"] / "model.gguf", gguf)
        progress("check the tokenizer", 1, 1)
    return {
        "tensors": [tensor.model_dump() for tensor in tensors],
        "hardware": here.hardware(arguments.device),
        "starved_experts": starved,
        "recut_ids": recut,
    }


def _take_over(arguments: TakeOver, out: Path, progress: Progress) -> dict[str, Any]:
    """Fill `out` with a finished checkpoint as it is; a GGUF gets the model's tokenizer beside it, as every one does."""
    from tasks.model import config_forms
    from tasks.quantize import imported
    from tasks.tokenizer import same_text

    files, companions, packing = list(arguments.files), arguments.companions, arguments.packing
    tensors = imported.take_over(arguments.checkpoint, files, companions, packing, out, progress)
    recut = 0
    if packing.format == "gguf":
        _complete(companions, out)
        config_forms.complete(out / "config.json")
        recut = same_text.require(companions, out / files[0])
    return {
        "tensors": [tensor.model_dump() for tensor in tensors],
        "hardware": here.hardware(arguments.device),
        "recut_ids": recut,
    }


def _dress(arguments: Dress, out: Path, progress: Progress) -> dict[str, Any]:
    """Fill `out` with the source's companions, and with the artifact's GGUF files as those say."""
    from tasks.quantize import dress
    from tasks.tokenizer import same_text

    for name in COMPANIONS:
        if (arguments.source / name).exists():
            shutil.copyfile(arguments.source / name, out / name)
    for gguf in arguments.artifact.glob("*.gguf"):
        progress("write the new metadata", 0, 1)
        dress.dress(gguf, arguments.source, out / gguf.name)
        same_text.require(arguments.source, out / gguf.name)
        progress("write the new metadata", 1, 1)
    return {}


def _starved_experts(source: Path, calibration: Path | None, progress: Progress) -> dict[str, int]:
    """Return which experts see few calibration tokens, and how many; counted before the engine is imported."""
    from tasks.model import architecture, experts

    if calibration is None or not architecture.of_config(source).experts:
        return {}
    progress("count the experts' tokens", 0, 1)
    found = experts.starved(source, calibration)
    for name, tokens in found.items():
        sys.stdout.write(f"expert {name} sees {tokens} calibration tokens, fewer than {experts.ENOUGH}\n")
    return found


def _complete(source: Path, out: Path) -> None:
    """Add the source's files that are not weights; GPTQModel rewrites the tokenizer's."""
    for path in source.iterdir():
        weights = path.suffix == ".safetensors" or path.name.endswith(".index.json")
        if not weights and not (path.name == "config.json" and (out / path.name).exists()):
            shutil.copyfile(path, out / path.name)
