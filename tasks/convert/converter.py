"""Converts a Hugging Face folder into a BF16 GGUF, once per source; every GGUF variant is quantized from it.

The converter is llama.cpp's own (`convert_hf_to_gguf.py`), in the copy that auto-round carries: its output is
byte-identical and nothing has to be cloned. It needs all of `import auto_round`, because the converter
imports a function of it; which architectures it takes is read from its source (`support`), in milliseconds.
"""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantmill.errors import SourceError
from tasks import support
from tasks.model import architecture, tensors
from tasks.sandbox import Progress

if TYPE_CHECKING:
    from auto_round.export.export_to_gguf.llama_cpp_conversion import ConversionContext


def convert(source: Path, out_file: Path, progress: Progress, *, name: str) -> None:
    """Write the model of folder `source` as a BF16 GGUF file, `names.json` beside it; the same input gives the same bytes.

    `name` becomes `general.name`, and what llama.cpp derives from a folder's name (basename, finetune,
    version) is derived from it, so that no path of this machine enters the file.

    Raises:
        SourceError: the converter does not know the architecture or the tokenizer.
    """
    import gguf

    progress("convert", 0, 1)
    context = _conversion(source)
    hparams = context.ModelBase.load_hparams(source, False)
    if "n_positions" in hparams:  # GPT-2's converter reads an older name, which transformers no longer writes
        hparams.setdefault("n_ctx", hparams["n_positions"])
    architecture = context.get_model_architecture(hparams, context.ModelType.TEXT)
    try:
        model_class = context.get_model_class(architecture)
        with tempfile.TemporaryDirectory() as scratch:
            ftype = gguf.LlamaFileType.MOSTLY_BF16
            model = model_class(source, ftype, out_file, model_name=name, hparams=hparams)
            # The metadata heuristics read the last segment of this path: let it be the model's name.
            model.dir_model_card = Path(scratch) / name.rsplit("/", 1)[-1]
            model.dir_model_card.symlink_to(source.resolve(), target_is_directory=True)
            model.write()
        _write_names(source, model.tensor_map, out_file.parent / "names.json")
    except NotImplementedError as error:
        raise SourceError(f"{name}: {architecture} cannot become a GGUF: {_one_line(error)}") from error
    progress("convert", 1, 1)


def _write_names(source: Path, tensor_map: Any, path: Path) -> None:
    """Write module name in the checkpoint -> tensor in the GGUF; empty where several modules share one (experts)."""
    found = {name: tensor_map.get_name(f"{name}.weight", (".weight",)) or "" for name in tensors.linear_names(source)}
    path.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _conversion(source: Path) -> "ConversionContext":
    import gguf
    from auto_round.export.export_to_gguf.llama_cpp_conversion import get_conversion

    try:
        # Modules of the converter name architectures that came after the locked gguf; the classes that do are not used.
        for kind in support.missing_kinds(_class_name(source)):
            setattr(gguf.MODEL_ARCH, kind, None)
        # Without auto_update it never asks the network for a newer converter.
        return get_conversion(source, auto_update=False)
    except NotImplementedError as error:
        raise SourceError(f"model: no GGUF can be made of it: {_one_line(error)} (LlamaForCausalLM can)") from error
    except FileNotFoundError as error:
        raise SourceError(f"model: {Path(str(error.filename)).name} is missing from the folder") from error


def _class_name(source: Path) -> str:
    return str((architecture.read_json(source / "config.json").get("architectures") or [""])[0])


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
