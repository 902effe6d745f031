"""Turns a GGUF file into the Hugging Face folder that every quantizer and the baseline start from.

The weights went through the file's own quantization once, so whoever shows figures of such a model says so:
the returned types are the record. Reading is left to transformers (`from_pretrained(..., gguf_file=...)`),
which undoes llama.cpp's permutations; saving is not, because it refuses to save what it read from a GGUF.

The tokenizer that comes out is transformers' reading of the GGUF, not yet llama.cpp's: see `tasks/tokenizer/check.py`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from quantmill.errors import SourceError
from tasks.model.gguf import one_line, read_by_transformers, read_gguf, rewrite_json
from tasks.sandbox import Progress
from tasks.tokenizer import of_gguf

if TYPE_CHECKING:
    from gguf import GGUFReader
    from transformers import PreTrainedModel


_STEPS = 4
_LARGEST_GEMMA = {"gemma2": 46, "gemma3_text": 62}
"""Model type -> layers of its 27B, whose attention llama.cpp scales by the width of the model over its heads."""
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
    of_gguf.save(gguf, out, context_length, reader)
    progress("dequantize", _STEPS, _STEPS)
    return types


def _load(gguf: Path, reader: "GGUFReader", elements: int) -> "PreTrainedModel":
    """Return the model in bf16, sure that every weight of the file went into it."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    try:
        with read_by_transformers(reader):
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
        raise SourceError(f"{gguf.name}: transformers cannot read this GGUF ({one_line(error)})") from error
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
    rewrite_json(
        out / "config.json", lambda said: {key: value for key, value in said.items() if key not in _LOCAL_CONFIG_KEYS}
    )
