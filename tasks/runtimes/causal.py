"""A causal language model of torch, however it was loaded: logits, one token after the other, and the trace of the baseline."""

from pathlib import Path
from typing import Any

import numpy
import torch
from transformers import AutoTokenizer

from tasks.metrics import Floats, Ints
from tasks.trace import Head, Transform


class CausalModel:
    """A loaded model that predicts the next token."""

    def __init__(self, model: Any, folder: Path, device: str, compute_dtype: str, kernel: str) -> None:
        """Take over `model`; `kernel` is what multiplies its quantized weights."""
        self.model, self._folder, self._device, self._cache = model, folder, device, None
        self.compute_dtype, self.kernel = compute_dtype, kernel

    @torch.inference_mode()
    def logits(self, ids: Ints) -> Floats:
        """Return the logits (length, vocabulary) after each of `ids` (length,)."""
        return self._array(self.model(self._tensor(ids), use_cache=False).logits[0])

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
        self.model = self._cache = None

    @torch.inference_mode()
    def trace(self, ids: Ints) -> tuple[Floats, Floats]:
        """Return what goes into the head (length, hidden) at each of `ids`, and the logits that come of it."""
        kept: list[torch.Tensor] = []
        hook = self.model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
        try:
            logits = self.logits(ids)
        finally:
            hook.remove()
        return self._array(kept[0][0]), logits

    def head(self) -> Head:
        """Return the output projection in fp32."""
        layer = self.model.get_output_embeddings()
        bias = getattr(layer, "bias", None)
        return Head(
            weight=self._array(layer.weight.detach()),
            bias=None if bias is None else self._array(bias.detach()),
            transform=Transform.of_config(self.model.config.get_text_config().to_dict()),
        )

    def _advance(self, ids: torch.Tensor, cache: Any) -> int:
        out = self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        self._cache = out.past_key_values
        return int(out.logits[0, -1].argmax())

    def _tensor(self, ids: Ints) -> torch.Tensor:
        return torch.from_numpy(ids.astype(numpy.int64))[None].to(self._device)

    @staticmethod
    def _array(tensor: torch.Tensor) -> Floats:
        return numpy.asarray(tensor.float().cpu().numpy(), dtype=numpy.float32)
