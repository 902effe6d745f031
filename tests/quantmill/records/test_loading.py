"""The lines that load a version name the right library and the right path.

`test_wheel.py` and `quantizers/` run such lines.
"""

import ast
import shlex
from pathlib import Path
from typing import Any

import pytest

from quantmill.client.where import asked_program
from quantmill.files.entries import FileEntry
from quantmill.recipe.methods import METHODS
from quantmill.records import loading, selection
from quantmill.records.manifest import Manifest
from tests import samples

GGUF: dict[str, Any] = {"method": "gguf", "bits": 4, "format": "gguf"}
GPTQ: dict[str, Any] = {"method": "gptq", "bits": 4, "format": "safetensors"}


def version(variant: dict[str, Any], runtime: str = "", file: str = "model.safetensors") -> Manifest:
    made = samples.manifest((FileEntry(path=file, size_bytes=5, sha256=samples.DIGEST),))
    evaluation = made.evaluation.model_copy(update={"runtime": runtime})
    return made.model_copy(update={"variant": variant, "evaluation": evaluation})


@pytest.mark.parametrize(
    ("made", "library", "place"),
    [
        (version(GPTQ), "transformers", "in/current"),
        (version(GPTQ, "gptqmodel"), "gptqmodel", "in/current"),
        (version(GGUF, file="model-Q4_K_M.gguf"), "llama_cpp", "in/current/model-Q4_K_M.gguf"),
        (version({"method": "imported", "packing": GGUF, "format": "gguf"}, file="a.gguf"), "llama_cpp", "in/current/a.gguf"),
        (version({"method": "of another release"}), "transformers", "in/current"),
    ],
)  # fmt: skip
def test_line_and_script_name_library_and_place(made: Manifest, library: str, place: str) -> None:
    assert selection.library(made) == library
    line = loading.how_to_load(Path("in/current"), made)
    assert line.startswith(f'python -c "from {library} import ')
    assert repr(place) in line
    script = loading.script(made)
    assert script.startswith(f"from {library} import ")
    assert f'"{Path(place).name if library == "llama_cpp" else "."}"' in script
    ast.parse(script)


@pytest.mark.parametrize(
    ("made", "where", "expected"),
    [
        (version({"method": "baseline", "format": "safetensors"}, "transformers"), "runtime=vllm", "vllm serve 'a b'"),
        (version({"method": "baseline", "format": "safetensors"}), "bits>2,runtime=transformers", "import AutoModelForCausalLM"),
        (version(GPTQ, "transformers"), "runtime=gptqmodel", "from gptqmodel import GPTQModel; GPTQModel.load('a b')"),
        (version(GGUF, file="m.gguf"), "runtime=llama.cpp,kl<1", "Llama('a b/m.gguf'"),
        (version(GPTQ, "transformers"), "runtime!=vllm,bits=4", "import AutoModelForCausalLM"),
    ],
)  # fmt: skip
def test_the_line_is_that_of_the_program_that_was_asked_for(made: Manifest, where: str, expected: str) -> None:
    assert expected in loading.how_to_load(Path("a b"), made, asked_program(where))


@pytest.mark.parametrize("library", sorted({row.runtime for row in METHODS.values()}))
def test_every_library_that_methods_name_has_a_line_and_a_script(library: str) -> None:
    made = version(GPTQ, library)
    if library == "hqq":  # its folders carry the lines, in README.md
        with pytest.raises(ValueError, match="has no script for this library"):
            loading.script(made)
    else:
        assert library in loading.script(made) and library in loading.how_to_load(Path("x"), made)


def test_hqq_folders_say_it_themselves() -> None:
    made = version({"method": "hqq", "bits": 4, "format": "safetensors"})
    assert loading.how_to_load(Path("in"), made) == "see in/README.md: it needs the hqq package"


@pytest.mark.parametrize("folder", ["plain", "a b", "it's", 'say "x"', "$HOME", "a`b`", "x\\y"])
def test_any_folder_reaches_python_as_it_is(folder: str) -> None:
    python, option, code = shlex.split(loading.how_to_load(Path(folder), version(GPTQ)))
    assert (python, option) == ("python", "-c")
    (call,) = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    assert ast.literal_eval(call.args[0]) == folder
