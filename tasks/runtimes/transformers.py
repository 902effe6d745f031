"""transformers: a Hugging Face folder -> logits, with the quantized layers that its config names.

`scoring` loads the same folder and then widens all arithmetic to fp32 where that is possible: bf16 arithmetic alone costs a
mean KL of 1.1e-3 on a model of 135 million weights, a quarter of what 8-bit formats cost, and would hide their damage.
"""

import logging
from pathlib import Path
from typing import Any

import numpy
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GPTQConfig

from tasks.metrics import Floats, Ints
from tasks.runtimes.protocol import Machine
from tasks.trace import Head, Transform

PACKAGE = "transformers"
_HALF = (torch.bfloat16, torch.float16)
_ROOM = 0.7  # of the free memory that fp32 weights may take


def load(folder: Path, machine: Machine, context: int, scoring: bool) -> "Transformers":
    """Open an artifact folder as a consumer does; `scoring` then widens its arithmetic."""
    return Transformers(folder, machine, scoring)


class Transformers:
    """A causal language model in transformers."""

    def __init__(self, folder: Path, machine: Machine, scoring: bool) -> None:
        """Load the folder offline, without code of its own."""
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)  # warns at every multiplication
        torch.set_num_threads(machine.threads)
        torch.use_deterministic_algorithms(True, warn_only=True)
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        quantization: dict[str, Any] = getattr(config, "quantization_config", None) or {}
        wide = scoring and _fits_in_fp32(folder, quantization, machine.device)
        options: dict[str, Any] = {"dtype": torch.float32} if wide else {"dtype": "auto"}
        if wide and quantization.get("quant_method") == "gptq":
            options["quantization_config"] = GPTQConfig(bits=quantization["bits"], backend="gptq_torch")
        self._model, loaded = AutoModelForCausalLM.from_pretrained(
            folder, device_map=machine.device, local_files_only=True, output_loading_info=True, **options
        )
        if missing := sorted(map(str, [*loaded["missing_keys"], *loaded["mismatched_keys"]])):
            raise ValueError(
                f"the folder lacks {missing[0]} ({len(missing)} in all): transformers would make weights up"
            )
        self._model.eval()
        if wide:
            widen(self._model)
        self._folder, self._device, self._cache = folder, machine.device, None
        self.compute_dtype = "float32" if wide else str(self._model.dtype).removeprefix("torch.")
        self.kernel = _kernel(self._model)

    @torch.inference_mode()
    def logits(self, ids: Ints) -> Floats:
        """Return the logits (length, vocabulary) after each of `ids` (length,)."""
        return self._array(self._model(self._tensor(ids), use_cache=False).logits[0])

    @torch.inference_mode()
    def start(self, ids: Ints) -> int:
        """Read a prompt into an empty cache and return the likeliest next token."""
        return self._advance(self._tensor(ids), None)

    @torch.inference_mode()
    def step(self, token: int) -> int:
        """Append one token and return the likeliest next one."""
        return self._advance(torch.tensor([[token]], device=self._device), self._cache)

    def text(self, tokens: list[int]) -> str:
        """Return the text of tokens."""
        tokenizer = AutoTokenizer.from_pretrained(self._folder, local_files_only=True)
        return str(tokenizer.decode(tokens))

    def close(self) -> None:
        """Free the weights."""
        self._model = self._cache = None

    @torch.inference_mode()
    def trace(self, ids: Ints) -> tuple[Floats, Floats]:
        """Return what goes into the head (length, hidden) at each of `ids`, and the logits that come of it."""
        kept: list[torch.Tensor] = []
        hook = self._model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
        try:
            logits = self.logits(ids)
        finally:
            hook.remove()
        return self._array(kept[0][0]), logits

    def head(self) -> Head:
        """Return the output projection in fp32."""
        layer = self._model.get_output_embeddings()
        bias = getattr(layer, "bias", None)
        return Head(
            weight=self._array(layer.weight.detach()),
            bias=None if bias is None else self._array(bias.detach()),
            transform=Transform.of_config(self._model.config.get_text_config().to_dict()),
        )

    def _advance(self, ids: torch.Tensor, cache: Any) -> int:
        out = self._model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        self._cache = out.past_key_values
        return int(out.logits[0, -1].argmax())

    def _tensor(self, ids: Ints) -> torch.Tensor:
        return torch.from_numpy(ids.astype(numpy.int64))[None].to(self._device)

    @staticmethod
    def _array(tensor: torch.Tensor) -> Floats:
        return numpy.asarray(tensor.float().cpu().numpy(), dtype=numpy.float32)


def widen(model: torch.nn.Module) -> None:
    """Make every module that can compute in fp32 do so.

    transformers ignores `dtype` for weights that were quantized before, so what they leave in half precision is cast here.
    bitsandbytes' 4-bit layers take a bf16 kernel on processors that have one, whatever was asked for; they are told not to.
    GPTQModel's kernels for processors compute in bf16 or fp16; its layers are unpacked into fp32 matrices instead.
    LLM.int8() casts its inputs to fp16 by definition, which nothing changes.
    """
    for name, module in list(model.named_modules()):
        if hasattr(module, "dequantize_weight") and hasattr(module, "qweight"):
            model.set_submodule(name, _unpacked(module))
        elif type(module).__name__ == "Linear4bit":
            wanted = {"support_avx512bf16_for_cpu": False, "compute_dtype": torch.float32, "compute_type_is_set": True}
            for attribute, value in wanted.items():
                if not hasattr(module, attribute):
                    raise AttributeError(f"{name}: bitsandbytes' Linear4bit has no {attribute} any more; see `widen`")
                setattr(module, attribute, value)
    for parameter in model.parameters():
        if parameter.dtype in _HALF:
            parameter.data = parameter.data.float()


def _unpacked(module: Any) -> torch.nn.Linear:
    """Return a GPTQ layer as a plain one: weights (out, in) in fp32, by the engine's own formula."""
    module.scales = module.scales.float()
    weight = module.dequantize_weight().T.contiguous().float()
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=module.bias is not None, device="meta")
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    if module.bias is not None:
        layer.bias = torch.nn.Parameter(module.bias.float(), requires_grad=False)
    return layer


def _fits_in_fp32(folder: Path, quantization: dict[str, Any], device: str) -> bool:
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    wide = weights * 32 // int(quantization.get("bits") or 16)  # GPTQ is unpacked; the others stay packed
    if device != "cpu":
        return wide < _ROOM * torch.cuda.mem_get_info(device)[0]
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return wide < _ROOM * int(line.split()[1]) * 1024
    return True


def _kernel(model: torch.nn.Module) -> str:
    """Return the classes of the layers that hold quantized weights, or torch's own."""
    names = {
        f"{type(module).__module__.partition('.')[0]} {type(module).__name__}"
        for module in model.modules()
        if hasattr(module, "qweight") or type(module).__name__ in ("Linear4bit", "Linear8bitLt")
    }
    plain = "cuda" if torch.cuda.is_available() else torch.backends.cpu.get_cpu_capability()
    return ", ".join(sorted(names)) or f"torch {plain}"
