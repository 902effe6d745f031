"""Turns a GGUF file into the Hugging Face folder that every quantizer and the baseline start from.

The weights went through the file's own quantization once, so whoever shows figures of such a model says so:
the returned types are the record. Reading is left to transformers (`from_pretrained(..., gguf_file=...)`),
which undoes llama.cpp's permutations; saving is not, because it refuses to save what it read from a GGUF.

The tokenizer that comes out is transformers' reading of the GGUF, not yet llama.cpp's: see `tokenizer_check`.
"""

import json
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from quantmill import gguf_header
from quantmill.errors import SourceError, VerificationError
from tasks import sentencepiece_model

if TYPE_CHECKING:
    from gguf import GGUFReader
    from transformers import PreTrainedModel

Progress = Callable[[str, int, int], None]

_STEPS = 4
_LARGEST_GEMMA = {"gemma2": 46, "gemma3_text": 62}
"""Model type -> layers of its 27B, whose attention llama.cpp scales by the width of the model over its heads."""
# What transformers records of the machine and of its own class names; a reader needs neither.
_LOCAL_TOKENIZER_KEYS = ("backend", "is_local", "local_files_only", "name_or_path", "tokenizer_file")
_LOCAL_CONFIG_KEYS = ("quantization_config", "auto_map", "_name_or_path", "_model_name_or_path")


def dequantize(gguf: Path, out: Path, progress: Progress) -> dict[str, str]:
    """Fill the empty folder `out` with a bf16 model and its tokenizer; return every GGUF tensor's type.

    The same file gives the same bytes. Peak memory: 1.0 GB on a model of 135M weights, half of it imports.

    Raises:
        SourceError: the file is no whole GGUF, or transformers cannot read its architecture in full.
    """
    reader = read_gguf(gguf)
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    elements = sum(int(tensor.n_elements) for tensor in reader.tensors)
    progress("dequantize", 1, _STEPS)
    model = _load(gguf, reader, elements)
    progress("dequantize", 2, _STEPS)
    save_model(model, out)
    context_length = getattr(model.config, "max_position_embeddings", None)
    del model
    progress("dequantize", 3, _STEPS)
    _save_tokenizer(gguf, reader, out, context_length)
    progress("dequantize", _STEPS, _STEPS)
    return types


def read_gguf(gguf: Path, vocabulary: bool = True) -> "GGUFReader":
    """Return a reader of a file whose header and tensor table are whole and whose tensors all lie inside it.

    Args:
        gguf: the file.
        vocabulary: whether tokens and merges are wanted one by one, which takes seconds; else they are blocks of bytes.

    Raises:
        SourceError: the file is missing, is no GGUF, is cut short, or is one part of several.
    """
    import numpy
    from gguf import GGUFReader

    from tasks.gguf_reader import BlockReader

    try:
        gguf_header.read_header(gguf)
    except VerificationError as error:
        raise SourceError(f"{gguf.name}: {error}") from error
    except OSError as error:
        raise SourceError(f"{gguf.name}: cannot be read ({error.strerror})") from error
    try:
        # A broken length field makes numpy warn about an overflow before the reader fails on it.
        with numpy.errstate(over="ignore"):
            reader = GGUFReader(gguf) if vocabulary else BlockReader(gguf)
    except (ValueError, KeyError, IndexError, OverflowError, MemoryError, struct.error) as error:
        raise SourceError(f"{gguf.name}: the GGUF is cut short or broken ({_one_line(error)})") from error
    if not reader.tensors or "general.architecture" not in reader.fields:
        raise SourceError(f"{gguf.name}: a model's GGUF has tensors and general.architecture, this one lacks them")
    parts = reader.get_field("split.count")
    if parts is not None and int(parts.contents()) > 1:
        raise SourceError(f"{gguf.name}: one part of {int(parts.contents())}; llama-gguf-split --merge joins them")
    return reader


def _load(gguf: Path, reader: "GGUFReader", elements: int) -> "PreTrainedModel":
    """Return the model in bf16, sure that every weight of the file went into it."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    try:
        with _read_by_transformers(reader):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                gguf.parent,
                gguf_file=gguf.name,
                dtype=torch.bfloat16,
                # Without it some architectures stay packed where the `kernels` package happens to be installed.
                quantization_config=GgufConfig(dequantize=True),
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (ValueError, KeyError, NotImplementedError, RuntimeError) as error:
        raise SourceError(f"{gguf.name}: transformers cannot read this GGUF ({_one_line(error)})") from error
    model: PreTrainedModel = loaded[0]
    scale_attention(model.config)
    missing = loaded[1]["missing_keys"]
    if missing:
        raise SourceError(f"{gguf.name}: the file lacks {len(missing)} tensors of the model, one is {min(missing)}")
    read = sum(parameter.numel() for parameter in model.parameters())
    # transformers drops what it has no place for, such as Llama 3.1's RoPE factors: that is another model.
    if read != elements:
        raise SourceError(f"{gguf.name}: holds {elements} weights, transformers would keep {read} of them")
    return model


def scale_attention(config: Any) -> None:
    """Set the scale of a Gemma's attention as llama.cpp has it: a GGUF does not say it, and transformers takes 256."""
    if (largest := _LARGEST_GEMMA.get(config.model_type)) is None:
        return
    plain = config.num_hidden_layers != largest
    config.query_pre_attn_scalar = config.head_dim if plain else config.hidden_size // config.num_attention_heads


def save_model(model: "PreTrainedModel", out: Path) -> None:
    """Write weights in bf16, and configurations, through a twin that never heard of quantization.

    Raises:
        RuntimeError: the model has other tensors than a plain one.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = model.config
    for key in _LOCAL_CONFIG_KEYS:
        if hasattr(config, key):
            delattr(config, key)
    config.architectures = [type(model).__name__]
    with torch.device("meta"):
        twin: PreTrainedModel = cast("Any", AutoModelForCausalLM).from_config(config, dtype=torch.bfloat16)
    held = {name: part.bfloat16() if part.is_floating_point() else part for name, part in model.state_dict().items()}
    twin.load_state_dict(held, assign=True)
    twin.tie_weights()
    twin.save_pretrained(out)
    for weights in out.glob("*.safetensors"):
        weights.chmod(0o644)  # safetensors leaves them readable to their owner only
    _rewrite_json(out / "config.json", lambda settings: _without(settings, _LOCAL_CONFIG_KEYS))


def save_tokenizer(gguf: Path, out: Path, context_length: int | None = None) -> None:
    """Write the tokenizer and chat template that transformers reads from the GGUF, with nothing of this machine.

    Raises:
        SourceError: the file is no whole GGUF, or transformers does not know this kind of tokenizer.
    """
    _save_tokenizer(gguf, read_gguf(gguf), out, context_length)


def _save_tokenizer(gguf: Path, reader: "GGUFReader", out: Path, context_length: int | None) -> None:
    from transformers import AutoTokenizer

    try:
        with _read_by_transformers(reader):
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
    except (ValueError, KeyError, NotImplementedError, TypeError) as error:
        raise SourceError(f"{gguf.name}: transformers cannot read its tokenizer ({_one_line(error)})") from error
    tokenizer.save_pretrained(out)
    if model := sentencepiece_model.of_gguf(reader.fields):
        (out / sentencepiece_model.FILE).write_bytes(model)  # the converter and the check read it

    def portable(settings: dict[str, Any]) -> dict[str, Any]:
        kept = _without(settings, _LOCAL_TOKENIZER_KEYS)
        if kept.get("tokenizer_class") == "TokenizersBackend":  # transformers 4 knows the other name only
            kept["tokenizer_class"] = "PreTrainedTokenizerFast"
        if context_length is not None:
            kept["model_max_length"] = context_length
        return {**kept, "clean_up_tokenization_spaces": False}

    _rewrite_json(out / "tokenizer_config.json", portable)


@contextmanager
def _read_by_transformers(reader: "GGUFReader") -> Iterator[None]:
    """Have transformers read a GGUF by its architecture alone, through a reader that exists already.

    A file of the architecture `llama` whose general.name is `mistral` is of another architecture to transformers, which it
    then does not know. By itself transformers reads the file anew for config, weights and tokenizer (4.5 s each with a
    vocabulary of 49,152) and makes the table of tensor names once for every module of the model.
    """
    import gguf
    from transformers import modeling_gguf_pytorch_utils as reading

    with ExitStack() as undo:

        def replace(module: Any, name: str, value: Any) -> None:
            undo.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, value)

        of_file = reading.read_field
        replace(reading, "read_field", lambda file, name: [] if name == "general.name" else of_file(file, name))
        replace(gguf, "GGUFReader", lambda _path: reader)
        replace(gguf, "get_tensor_name_map", cache(gguf.get_tensor_name_map))
        yield


def _rewrite_json(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    settings = change(json.loads(path.read_text(encoding="utf-8")))
    text = json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _without(settings: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in keys}


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
