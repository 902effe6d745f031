"""Inside a job: turns a source into a bf16 folder with a checked tokenizer."""

from pathlib import Path
from typing import Any, Literal

from quantmill.recipe.packing import Packing
from tasks.sandbox import JobArguments, Progress, here


class Arguments(JobArguments):
    """The arguments of a job that makes a snapshot."""

    kind: Literal["snapshot"] = "snapshot"
    source: Path
    """The model folder or the GGUF file."""
    files: tuple[str, ...]
    """Names of the files to take from the folder."""
    form: Literal["folder", "gguf", "packed"]
    """`packed`: a folder with weights that are quantized already."""
    packing: Packing | None = None
    runtime: str = ""
    """The module of `tasks.runtimes` that opens a packed folder."""


def run(arguments: Arguments, out: Path, progress: Progress) -> dict[str, Any]:
    """Fill `out` with the bf16 folder; return a GGUF's tensor types and the snapshot's notes."""
    from tasks.tokenizer import chat

    if arguments.form == "folder":
        from tasks.source import take_in
        from tasks.tokenizer import from_sentencepiece

        changed = take_in.take_in(arguments.source, list(arguments.files), out, progress)
        changed += filter(None, [from_sentencepiece.complete(out)])
        chat.try_out(out)
        return {"source_types": {}, "notes": changed}
    if arguments.packing is not None:
        return _unpacked(arguments, arguments.packing, out, progress)
    from tasks.source import dequantize
    from tasks.tokenizer import check

    types = dequantize.dequantize(arguments.source, out, progress)
    chat.try_out(out)
    repaired = check.make_agree(out, arguments.source)
    notes = [f"weights went through {', '.join(sorted(set(types.values()) - {'F32'}))} once", repaired]
    return {"source_types": types, "notes": [note for note in notes if note]}


def _unpacked(arguments: Arguments, packing: Packing, out: Path, progress: Progress) -> dict[str, Any]:
    """Fill `out` with the unpacked weights of a finished checkpoint."""
    here.compile_nothing("cpu")
    from tasks.runtimes import Machine, runtime
    from tasks.source import unpack
    from tasks.tokenizer import chat

    chat.try_out(arguments.source)
    opener = runtime(arguments.runtime)
    machine = Machine("cpu", here.threads(), here.hardware("cpu"))
    opened = opener.load(arguments.source, machine, context=0, scoring=True)
    unpack.take_in(opened.model, arguments.source, list(arguments.files), packing, out, progress)
    return {"source_types": {}, "notes": [f"weights went through {packing.label} once"]}
