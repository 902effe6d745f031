"""GGUF: llama.cpp's quantizer makes each type from one BF16 conversion of the model.

K-quants and IQ types store blocks of 256 weights. If a row's length is no multiple of 256, llama.cpp uses another type of
about the same width. This counts as a fallback: `Q2_K` of such a model is larger than its name says.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantmill.errors import RecipeError
from quantmill.recipe.layer_rules import LayerRule, choose_bits
from quantmill.recipe.methods import MethodOptions
from quantmill.records.artifact import Architecture, QuantizedTensor
from tasks import support
from tasks.model.gguf import read_blocks
from tasks.quantize.work import Work

_SUPER_BLOCK = 256
_TYPE_OF_BITS = {2: "Q2_K", 3: "Q3_K", 4: "Q4_K", 5: "Q5_K", 6: "Q6_K", 8: "Q8_0", 16: "BF16"}


def quantize(work: Work[MethodOptions]) -> list[QuantizedTensor]:
    """Write `model-TYPE.gguf` from the conversion and return the type of each tensor in that file."""
    import llama_cpp

    conversion = work.needed["conversion"]
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = _file_type(work.kind)
    target = work.out / f"model-{work.kind}.gguf"
    chosen = _overrides(work.layers, conversion)
    if chosen:
        params.tt_overrides = _as_array(chosen)
    work.progress("quantize", 0, 1)
    code = llama_cpp.llama_model_quantize(str(conversion / "model.gguf").encode(), str(target).encode(), params)
    if code != 0 or not target.exists():
        raise RuntimeError(f"llama_model_quantize returned {code} for {work.kind}")
    work.progress("quantize", 1, 1)
    return read_tensors(target, work.kind, chosen)


def obstacle(model: Architecture, folder: Path) -> str:
    """Return why llama.cpp cannot convert the model, or would compute something else; empty if it can."""
    return support.gguf_obstacle(model, folder)


def _overrides(layers: Sequence[LayerRule], conversion: Path) -> dict[str, str]:
    """Return GGUF tensor -> type for the tensors that a rule of `layers` matches.

    The rules use the checkpoint's names.
    """
    if not layers:
        return {}
    names: dict[str, str] = json.loads((conversion / "names.json").read_text(encoding="utf-8"))
    chosen = choose_bits(layers, sorted(names))
    if lone := [name for name in chosen if not names[name]]:
        raise RecipeError(f"layers: {lone[0]} has no tensor of its own in a GGUF (experts are stored together)")
    return {names[name]: _TYPE_OF_BITS[bits] for name, bits in chosen.items()}


def _as_array(chosen: dict[str, str]) -> Any:
    """Return llama.cpp's array of overrides: a regular expression and a type each, then an empty entry."""
    import llama_cpp
    from gguf import GGMLQuantizationType

    entry = llama_cpp.llama_model_tensor_override
    made = [
        entry(f"^{name.replace('.', '[.]')}$".encode(), GGMLQuantizationType[kind].value)
        for name, kind in chosen.items()
    ]
    return (entry * (len(made) + 1))(*made, entry(None, 0))


def _file_type(name: str) -> int:
    import llama_cpp

    return int(getattr(llama_cpp, "LLAMA_FTYPE_ALL_F32" if name == "F32" else f"LLAMA_FTYPE_MOSTLY_{name}"))


def read_tensors(path: Path, asked: str, chosen: dict[str, str] | None = None) -> list[QuantizedTensor]:
    """Return a record of each tensor in a GGUF file.

    Args:
        path: the GGUF file.
        asked: the requested type.
        chosen: tensor -> type, for tensors whose type a rule of `layers` chose.
    """
    made = []
    for tensor in read_blocks(path).tensors:
        kind, width = tensor.tensor_type.name, int(tensor.shape[0])
        wanted = (chosen or {}).get(tensor.name, asked)
        blocks = "_K" in wanted or wanted.startswith(("IQ", "TQ"))
        replaced = blocks and width % _SUPER_BLOCK and len(tensor.shape) > 1 and kind != "F32"
        made.append(
            QuantizedTensor(
                name=tensor.name,
                scheme=kind,
                bits=8 * int(tensor.n_bytes) / int(tensor.n_elements),
                parameters=int(tensor.n_elements),
                fallback=f"rows of {width} are no multiple of {_SUPER_BLOCK}: {kind} took its place"
                if replaced
                else "",
            )
        )
    return made
