"""GGUF: llama.cpp's own quantizer, from the one BF16 conversion that all types of a model share.

K-quants and IQ types store blocks of 256; where a row's length is no multiple, llama.cpp takes another type of about the
same width. That is counted as a fallback: `Q2_K` of such a model is larger than its name says.
"""

from collections.abc import Callable
from pathlib import Path

from quantmill.artifact import QuantizedTensor
from quantmill.recipe import VariantSpec

_SUPER_BLOCK = 256


def quantize(
    source: Path,
    spec: VariantSpec,
    calibration: Path | None,
    out: Path,
    device: str,
    progress: Callable[[str, int, int], None],
) -> list[QuantizedTensor]:
    """Write `<type>.gguf` from `model.gguf` beside the source's folder and read back what each tensor became."""
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = _file_type(str(spec.type))
    target = out / f"model-{spec.type}.gguf"
    progress("quantize", 0, 1)
    code = llama_cpp.llama_model_quantize(str(source / "model.gguf").encode(), str(target).encode(), params)
    if code != 0 or not target.exists():
        raise RuntimeError(f"llama_model_quantize returned {code} for {spec.type}")
    progress("quantize", 1, 1)
    return read_tensors(target, str(spec.type))


def _file_type(name: str) -> int:
    import llama_cpp

    return int(getattr(llama_cpp, "LLAMA_FTYPE_ALL_F32" if name == "F32" else f"LLAMA_FTYPE_MOSTLY_{name}"))


def read_tensors(path: Path, asked: str) -> list[QuantizedTensor]:
    """Return what each tensor of a GGUF file became."""
    from gguf import GGUFReader

    made = []
    for tensor in GGUFReader(path).tensors:
        kind, width = tensor.tensor_type.name, int(tensor.shape[0])
        blocks = "_K" in asked or asked.startswith(("IQ", "TQ"))
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
