"""Turns a GGUF file into the Hugging Face folder that every quantizer and the baseline start from.

The weights went through the file's own quantization once, and reports must say so: the returned types record it.
transformers reads the file (`from_pretrained(..., gguf_file=...)`) and undoes llama.cpp's permutations. The folder is
saved here, because transformers refuses to save a model that it read from a GGUF.

The tokenizer is transformers' reading of the GGUF, which can differ from llama.cpp's: see `tasks/tokenizer/check.py`.
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
"""Model type -> number of layers of its 27B model, for which llama.cpp scales attention by hidden size / heads."""
_LOCAL_CONFIG_KEYS = ("quantization_config", "auto_map", "_name_or_path", "_model_name_or_path")


def dequantize(gguf: Path, out: Path, progress: Progress) -> dict[str, str]:
    """Fill the empty folder `out` with a bf16 model and its tokenizer; return each tensor's GGUF type.

    The same file gives the same bytes. Peak memory: 1.0 GB for a model of 135M weights, half of it for imports.

    Raises:
        SourceError: the file is no complete GGUF, or transformers cannot read its architecture in full.
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
    """Return the model in bf16; SourceError unless transformers kept every weight of the file."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    try:
        with read_by_transformers(reader):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                gguf.parent,
                gguf_file=gguf.name,
                dtype=torch.bfloat16,
                # Without this, some architectures stay packed if the `kernels` package is installed.
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
        raise SourceError(f"{gguf.name}: the file lacks {len(missing)} tensors of the model, such as {min(missing)}")
    read = sum(parameter.numel() for parameter in model.parameters())
    # transformers drops tensors that its model lacks, such as Llama 3.1's RoPE factors: the result is another model.
    if read != elements:
        raise SourceError(f"{gguf.name}: holds {elements} weights, transformers would keep {read} of them")
    return model


def scale_attention(config: Any) -> None:
    """Set a Gemma's attention scale to llama.cpp's: a GGUF does not state it, transformers assumes 256."""
    if (largest := _LARGEST_GEMMA.get(config.model_type)) is None:
        return
    plain = config.num_hidden_layers != largest
    config.query_pre_attn_scalar = config.head_dim if plain else config.hidden_size // config.num_attention_heads


def save_model(model: "PreTrainedModel", out: Path) -> None:
    """Write weights in bf16 and the configs, through a plain model that carries no trace of quantization.

    Raises:
        RuntimeError: the model's tensors differ from those of a plain model.
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
        weights.chmod(0o644)  # safetensors makes files that only their owner can read
    rewrite_json(
        out / "config.json", lambda said: {key: value for key, value in said.items() if key not in _LOCAL_CONFIG_KEYS}
    )
