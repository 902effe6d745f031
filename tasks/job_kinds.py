"""What each kind of job does: JobFile -> a filled `out` folder and a few facts. The only importer of quantizers and runtimes."""

import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from quantmill import locks
from quantmill.artifact import COMPANIONS
from quantmill.errors import TokenizerMismatch
from quantmill.machine import processor
from quantmill.packing import Packing
from quantmill.recipe import VariantSpec
from tasks.sandbox import JobFile

Progress = Callable[[str, int, int], None]

_RECUT = "recut.json"  # beside a conversion: how many ids of the probe are those of runs that it cuts in other places


def snapshot(job: JobFile, progress: Progress) -> dict[str, Any]:
    """Fill `out` with the source as a bf16 folder whose tokenizer was checked."""
    source, out = Path(job.arguments["source"]), job.folder / "out"
    if job.arguments["kind"] == "folder":
        from tasks import chat_templates, folder_source

        changed = folder_source.take_in(source, job.arguments["files"], out, progress)
        chat_templates.try_out(out)
        return {"source_types": {}, "notes": changed}
    if job.arguments["kind"] == "packed":
        return _unpacked(job, progress)
    from tasks import chat_templates, dequantize, tokenizer_check

    types = dequantize.dequantize(source, out, progress)
    chat_templates.try_out(out)
    repaired = tokenizer_check.make_agree(out, source)
    notes = [f"weights went through {', '.join(sorted(set(types.values()) - {'F32'}))} once", repaired]
    return {"source_types": types, "notes": [note for note in notes if note]}


def _unpacked(job: JobFile, progress: Progress) -> dict[str, Any]:
    """Fill `out` with the weights of a finished checkpoint, unpacked."""
    _compile_nothing("cpu")
    from tasks import chat_templates, unpack
    from tasks.runtimes.protocol import Machine

    chat_templates.try_out(Path(job.arguments["source"]))
    source, packing = Path(job.arguments["source"]), Packing.model_validate(job.arguments["packing"])
    runtime = importlib.import_module(f"tasks.runtimes.{job.arguments['runtime']}")
    opened = runtime.load(source, Machine("cpu", job.threads, hardware("cpu")), context=0, scoring=True)
    unpack.take_in(opened.model, source, job.arguments["files"], packing, job.folder / "out", progress)
    return {"source_types": {}, "notes": [f"weights went through {packing.label} once"]}


def tokens(job: JobFile, progress: Progress) -> dict[str, Any]:
    """Fill `out` with conversations as the model's chat template renders them."""
    from tasks import chat_templates

    talks = json.loads(Path(job.arguments["conversations"]).read_bytes())
    rendered = chat_templates.render(Path(job.arguments["folder"]), talks, job.arguments["where"])
    (job.folder / "out" / "rendered.json").write_text(json.dumps(rendered), encoding="utf-8")
    progress("render", 1, 1)
    return {}


def conversion(job: JobFile, progress: Progress) -> dict[str, Any]:
    """Fill `out` with the model in one BF16 GGUF file that tokenizes and chats as its source does."""
    from tasks import convert_gguf, sentencepiece_model

    source, out = Path(job.arguments["source"]), job.folder / "out" / "model.gguf"
    (place := job.folder / "vocabulary").mkdir()
    convert_gguf.convert(sentencepiece_model.complete(source, place), out, progress, name=job.arguments["name"])
    (out.parent / _RECUT).write_text(json.dumps(_require_same_text(source, out)), encoding="utf-8")
    return {}


def long_text(job: JobFile, progress: Progress) -> dict[str, Any]:
    """Compare a conversion with its source on one longer text."""
    from tasks import compare_long

    source, gguf = Path(job.arguments["source"]), Path(job.arguments["conversion"])
    return compare_long.compare(source, gguf, job.arguments["tokens"], job.folder / "work", job.threads, progress)


def _require_same_text(folder: Path, gguf: Path) -> int:
    """Raise TokenizerMismatch where a GGUF file tokenizes or renders a chat unlike the folder that it comes from.

    Returns how many ids of the probe lie in runs of one character that it cuts in other places.
    """
    from tasks import tokenizer_check

    difference, recut = tokenizer_check.examine(folder, gguf)
    if difference:
        raise TokenizerMismatch(f"{gguf.name} tokenizes unlike its source: {difference}")
    if words := tokenizer_check.compare_chat_template(folder, gguf):
        raise TokenizerMismatch(f"{gguf.name} renders a chat unlike its source: {words}")
    return recut


def _require_checked_text(folder: Path, conversion: Path, gguf: Path) -> int:
    """Do as above. What llama.cpp makes its tokenizer of was checked once, in the conversion."""
    from tasks import tokenizer_check

    if tokenizer_check.read_tokenizer(conversion) != tokenizer_check.read_tokenizer(gguf):
        return _require_same_text(folder, gguf)
    found = conversion.parent / _RECUT  # conversions made before this was counted had none
    return int(json.loads(found.read_text(encoding="utf-8"))) if found.is_file() else 0


def artifact(job: JobFile, progress: Progress) -> dict[str, Any]:
    """Fill `out` with the variant and tell what became of each tensor."""
    from tasks import config_forms, stored_types

    _compile_nothing(job.arguments["device"])
    spec = VariantSpec.model_validate(job.arguments["spec"])
    calibration = job.arguments["calibration"]
    starved = _starved_experts(Path(job.arguments["companions"]), calibration, progress)
    module = importlib.import_module(f"tasks.quantizers.{spec.method}")
    tensors = module.quantize(
        Path(job.arguments["source"]),
        spec,
        Path(calibration) if calibration else None,
        job.folder / "out",
        job.arguments["device"],
        job.arguments["arithmetic"],
        progress,
    )
    companions = Path(job.arguments["companions"])
    stored_types.check(Path(job.arguments["source"]), job.folder / "out", tensors)
    _complete(companions, job.folder / "out")
    config_forms.complete(job.folder / "out" / "config.json")
    recut = 0
    for gguf in (job.folder / "out").glob("*.gguf"):
        progress("check the tokenizer", 0, 1)
        recut = _require_checked_text(companions, Path(job.arguments["source"]) / "model.gguf", gguf)
        progress("check the tokenizer", 1, 1)
    return {
        "tensors": [tensor.model_dump() for tensor in tensors],
        "hardware": hardware(job.arguments["device"]),
        "starved_experts": starved,
        "recut_ids": recut,
    }


def imported(job: JobFile, progress: Progress) -> dict[str, Any]:
    """Fill `out` with a finished checkpoint as it is; a GGUF gets the model's tokenizer beside it, as every one does."""
    from tasks import config_forms
    from tasks.imported import take_over

    out, companions = job.folder / "out", Path(job.arguments["companions"])
    packing = Packing.model_validate(job.arguments["packing"])
    tensors = take_over(Path(job.arguments["checkpoint"]), job.arguments["files"], companions, packing, out, progress)
    recut = 0
    if packing.format == "gguf":
        _complete(companions, out)
        config_forms.complete(out / "config.json")
        recut = _require_same_text(companions, out / job.arguments["files"][0])
    return {
        "tensors": [tensor.model_dump() for tensor in tensors],
        "hardware": hardware(job.arguments["device"]),
        "recut_ids": recut,
    }


def dress(job: JobFile, progress: Progress) -> dict[str, Any]:
    """Fill `out` with the source's companions, and with the artifact's GGUF files as those say."""
    from tasks import gguf_dress

    source, out = Path(job.arguments["source"]), job.folder / "out"
    for name in COMPANIONS:
        if (source / name).exists():
            shutil.copyfile(source / name, out / name)
    for gguf in Path(job.arguments["artifact"]).glob("*.gguf"):
        progress("write the new metadata", 0, 1)
        gguf_dress.dress(gguf, source, out / gguf.name)
        _require_same_text(source, out / gguf.name)
        progress("write the new metadata", 1, 1)
    return {}


def _starved_experts(source: Path, calibration: str | None, progress: Progress) -> dict[str, int]:
    """Return which experts see few calibration tokens, and how many; counted before the engine is imported."""
    from tasks import architecture, experts

    if calibration is None or not architecture.of_config(source).experts:
        return {}
    progress("count the experts' tokens", 0, 1)
    found = experts.starved(source, Path(calibration))
    for name, tokens in found.items():
        sys.stdout.write(f"expert {name} sees {tokens} calibration tokens, fewer than {experts.ENOUGH}\n")
    return found


def _compile_nothing(device: str) -> None:
    """Keep GPTQModel and AutoRound from compiling on a processor: minutes, and a C++ compiler at run time."""
    if device == "cpu":
        os.environ["TORCHDYNAMO_DISABLE"] = "1"


def _complete(source: Path, out: Path) -> None:
    """Add the source's files that are not weights; GPTQModel rewrites the tokenizer's."""
    for path in source.iterdir():
        weights = path.suffix == ".safetensors" or path.name.endswith(".index.json")
        if not weights and not (path.name == "config.json" and (out / path.name).exists()):
            shutil.copyfile(path, out / path.name)


def report(job: JobFile, progress: Progress) -> dict[str, Any]:
    """Measure an artifact folder; the baseline leaves its trace in `out`."""
    _compile_nothing(job.arguments["device"])
    from tasks import measure

    share = partial(locks.share, job.machine_fd)
    return measure.measure(job, hardware(job.arguments["device"]), job.folder / "out", progress, share)


def speed(job: JobFile, progress: Progress) -> dict[str, Any]:
    """Measure the speed alone of an artifact folder that was scored before."""
    _compile_nothing(job.arguments["device"])
    from tasks import measure

    return measure.measure_speed(job, hardware(job.arguments["device"]), progress)


KINDS: dict[str, Callable[[JobFile, Progress], dict[str, Any]]] = {
    "snapshot": snapshot,
    "tokens": tokens,
    "conversion": conversion,
    "long_text": long_text,
    "artifact": artifact,
    "imported": imported,
    "dress": dress,
    "report": report,
    "speed": speed,
}


def hardware(device: str) -> str:
    """Return the name of the processor, or of the GPU where that is the device."""
    if device != "cpu":
        import torch

        return str(torch.cuda.get_device_name(device))
    return processor()
