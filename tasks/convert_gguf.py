"""Converts a Hugging Face folder into a BF16 GGUF, once per source; every GGUF variant is quantized from it.

The converter is llama.cpp's own (`convert_hf_to_gguf.py`), in the copy that auto-round carries: its output is
byte-identical and nothing has to be cloned. It needs all of `import auto_round`, because the converter
imports a function of it; which architectures it takes is read from its source instead, in milliseconds.
"""

import ast
import importlib.util
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from quantmill.errors import SourceError

if TYPE_CHECKING:
    from auto_round.export.export_to_gguf.llama_cpp_conversion import ConversionContext

_CONVERTER = "auto_round.export.export_to_gguf"


def convert(source: Path, out_file: Path, progress: Callable[[str, int, int], None], *, name: str) -> None:
    """Write the model of folder `source` as a BF16 GGUF file; the same folder and name give the same bytes.

    `name` becomes `general.name`, and what llama.cpp derives from a folder's name (basename, finetune,
    version) is derived from it, so that no path of this machine enters the file.

    Raises:
        SourceError: the converter does not know the architecture or the tokenizer.
    """
    import gguf

    progress("convert", 0, 1)
    context = _conversion(source)
    hparams = context.ModelBase.load_hparams(source, False)
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
    except NotImplementedError as error:
        raise SourceError(f"{name}: {architecture} cannot become a GGUF: {_one_line(error)}") from error
    progress("convert", 1, 1)


def _conversion(source: Path) -> "ConversionContext":
    from auto_round.export.export_to_gguf.llama_cpp_conversion import get_conversion

    try:
        # Without auto_update it never asks the network for a newer converter.
        return get_conversion(source, auto_update=False)
    except NotImplementedError as error:
        raise SourceError(
            f"model: no GGUF can be made of it: {_one_line(error)} "
            f"({len(supported_architectures())} architectures can, LlamaForCausalLM is one)"
        ) from error
    except FileNotFoundError as error:
        raise SourceError(f"model: {Path(str(error.filename)).name} is missing from the folder") from error


@cache
def supported_architectures() -> frozenset[str]:
    """Return the class names of the causal text models that `convert` takes, without importing an engine."""
    package = importlib.util.find_spec("auto_round")
    if package is None or not package.submodule_search_locations:
        return frozenset()
    root = Path(package.submodule_search_locations[0])
    table = root.joinpath(*_CONVERTER.split(".")[1:], "conversion", "__init__.py")
    for statement in ast.parse(table.read_text(encoding="utf-8")).body:
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and statement.target.id == "TEXT_MODEL_MAP"
            and statement.value is not None
        ):
            names = ast.literal_eval(statement.value)
            return frozenset(name for name in names if name.endswith(("ForCausalLM", "LMHeadModel")))
    return frozenset()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
