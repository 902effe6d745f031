"""Fills the artifact folder of a variant, inside a job.

A method makes the weights, or the job copies a finished checkpoint, or gives an artifact new companion files.
"""

import shutil
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from quantmill.recipe.packing import Packing
from quantmill.recipe.recipe import VariantSpec
from quantmill.records.artifact import is_companion
from tasks.quantize.work import Work, method_module
from tasks.sandbox import JobArguments, Progress, here


class Make(JobArguments):
    """The arguments of a job in which a method makes an artifact."""

    kind: Literal["artifact"] = "artifact"
    spec: VariantSpec
    source: Path
    """The snapshot's folder."""
    needed: dict[str, Path]
    """Stage that the method needs -> the folder with the stage's result."""
    calibration: Path | None
    """The file of the calibration windows; None if the method uses none."""
    device: str
    arithmetic: str
    """The type in which the engine computes."""


class TakeOver(JobArguments):
    """The arguments of a job that copies a finished checkpoint."""

    kind: Literal["imported"] = "imported"
    checkpoint: Path
    """The checkpoint's folder, or its GGUF file."""
    files: tuple[str, ...]
    """The names of the files to copy."""
    packing: Packing
    companions: Path
    """The folder with the snapshot of the model that was quantized."""
    device: str


class Dress(JobArguments):
    """The arguments of a job that gives an artifact the new companion files of its model."""

    kind: Literal["dress"] = "dress"
    artifact: Path
    """A folder with the artifact's GGUF files, if it has any."""
    source: Path
    """The snapshot's folder."""


Arguments = Annotated[Make | TakeOver | Dress, Field(discriminator="kind")]


def run(arguments: Make | TakeOver | Dress, out: Path, progress: Progress) -> dict[str, Any]:
    """Fill `out`; return fields of the artifact's record, such as one record per tensor."""
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
    """Copy a finished checkpoint to `out`; for a GGUF file, add the model's config and tokenizer files."""
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
    """Copy the source's companion files to `out`, and write the artifact's GGUF files with their settings."""
    from tasks.quantize import dress
    from tasks.tokenizer import same_text

    for path in arguments.source.iterdir():
        if is_companion(path.name):
            shutil.copyfile(path, out / path.name)
    for gguf in arguments.artifact.glob("*.gguf"):
        progress("write the new metadata", 0, 1)
        dress.dress(gguf, arguments.source, out / gguf.name)
        same_text.require(arguments.source, out / gguf.name)
        progress("write the new metadata", 1, 1)
    return {}


def _starved_experts(source: Path, calibration: Path | None, progress: Progress) -> dict[str, int]:
    """Return expert -> number of calibration tokens, for experts that see too few tokens.

    The count runs before the engine is imported.
    """
    from tasks.model import architecture, experts

    if calibration is None or not architecture.of_config(source).experts:
        return {}
    progress("count the experts' tokens", 0, 1)
    found = experts.starved(source, calibration)
    for name, tokens in found.items():
        sys.stdout.write(f"expert {name} sees {tokens} calibration tokens, fewer than {experts.ENOUGH}\n")
    return found


def _complete(source: Path, out: Path) -> None:
    """Copy the source's files that are not weights to `out`; keep a config.json that the engine wrote.

    The source's tokenizer files replace those that GPTQModel rewrote.
    """
    for path in source.iterdir():
        weights = path.suffix == ".safetensors" or path.name.endswith(".index.json")
        if not weights and not (path.name == "config.json" and (out / path.name).exists()):
            shutil.copyfile(path, out / path.name)
