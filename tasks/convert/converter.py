"""Converts a Hugging Face folder to a BF16 GGUF file, from which every GGUF variant is quantized.

The converter is llama.cpp's own (`convert_hf_to_gguf.py`), in the copy that auto-round contains: its output is
byte-identical to the original's, and no repository has to be cloned. Using the copy imports all of auto_round. The list
of supported architectures is read from the copy's source instead, in milliseconds (`tasks/support`).
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
    """Write the model in `source` to a BF16 GGUF file, with `names.json` beside the file.

    The same input gives the same bytes. `name` becomes `general.name`. Fields that llama.cpp derives from a folder's name
    (basename, finetune, version) are derived from `name`, so that the file contains no path of this machine.

    Raises:
        SourceError: the converter does not know the architecture or the tokenizer.
    """
    import gguf

    progress("convert", 0, 1)
    context = _conversion(source)
    hparams = context.ModelBase.load_hparams(source, False)
    if "n_positions" in hparams:  # GPT-2's converter reads the older name, which transformers no longer writes
        hparams.setdefault("n_ctx", hparams["n_positions"])
    architecture = context.get_model_architecture(hparams, context.ModelType.TEXT)
    try:
        model_class = context.get_model_class(architecture)
        with tempfile.TemporaryDirectory() as scratch:
            ftype = gguf.LlamaFileType.MOSTLY_BF16
            model = model_class(source, ftype, out_file, model_name=name, hparams=hparams)
            # The metadata heuristics read the last segment of this path, which must be the model's name.
            model.dir_model_card = Path(scratch) / name.rsplit("/", 1)[-1]
            model.dir_model_card.symlink_to(source.resolve(), target_is_directory=True)
            model.write()
        _write_names(source, model.tensor_map, out_file.parent / "names.json")
    except NotImplementedError as error:
        raise SourceError(f"{name}: {architecture} cannot become a GGUF: {_one_line(error)}") from error
    progress("convert", 1, 1)


def _write_names(source: Path, tensor_map: Any, path: Path) -> None:
    """Write a JSON map: module name in the checkpoint -> tensor in the GGUF.

    The tensor is empty if several modules share it (experts).
    """
    found = {name: tensor_map.get_name(f"{name}.weight", (".weight",)) or "" for name in tensors.linear_names(source)}
    path.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _conversion(source: Path) -> "ConversionContext":
    import gguf
    from auto_round.export.export_to_gguf.llama_cpp_conversion import get_conversion

    try:
        # The converter's modules name architectures that the locked gguf lacks; classes of these are never used.
        for kind in support.missing_kinds(_class_name(source)):
            setattr(gguf.MODEL_ARCH, kind, None)
        # auto_update would ask the network for a newer converter.
        return get_conversion(source, auto_update=False)
    except NotImplementedError as error:
        raise SourceError(f"model: cannot become a GGUF: {_one_line(error)} (LlamaForCausalLM can)") from error
    except FileNotFoundError as error:
        raise SourceError(f"model: {Path(str(error.filename)).name} is missing from the folder") from error


def _class_name(source: Path) -> str:
    return str((architecture.read_json(source / "config.json").get("architectures") or [""])[0])


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
