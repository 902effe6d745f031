"""A causal language model in torch: computes logits, generates tokens and gives the baseline's trace.

The modules for transformers, hqq and gptqmodel load models into this class.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import torch
from transformers import AutoTokenizer

from tasks.metrics import Floats, Ints
from tasks.runtimes.head import Head, Transform
from tasks.runtimes.protocol import ROWS


class CausalModel:
    """A loaded model that predicts the next token."""

    def __init__(self, model: Any, folder: Path, device: str, compute_dtype: str, kernel: str) -> None:
        """Wrap a loaded `model`; `kernel` names the code that multiplies its quantized weights."""
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
        """Decode tokens into text."""
        tokenizer = AutoTokenizer.from_pretrained(self._folder, local_files_only=True)
        return str(tokenizer.decode(tokens))

    def close(self) -> None:
        """Free the memory of the weights, on a GPU too, so that the next model can use it."""
        self.model = self._cache = None
        gc.collect()  # engines' layers refer to themselves
        if self._device != "cpu":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def pieces(self, ids: Ints, rows: int = ROWS) -> Iterator[torch.Tensor]:
        """Yield the logits after each of `ids` in order, at most `rows` positions at a time, on the device.

        A longer window goes through the decoder once, as a whole. The decoder's output then goes through the rest of the model
        in pieces. If the model has no separate decoder, the whole window is one piece.
        """
        whole = self._tensor(ids)
        out = self._decoded(whole) if len(ids) > rows else None
        if out is None:
            yield self.model(whole, use_cache=False).logits[0]
            return
        for start in range(0, len(ids), rows):
            piece = slice(start, start + rows)
            cut = type(out)(**{**out, "last_hidden_state": out.last_hidden_state[:, piece]})
            with _answering(self.model.get_decoder(), cut):
                yield self.model(whole[:, piece], use_cache=False).logits[0]

    def traced_pieces(self, ids: Ints, rows: int = ROWS) -> Iterator[tuple[Floats, torch.Tensor]]:
        """Yield each piece's head inputs (positions, hidden) with its logits."""
        kept: list[torch.Tensor] = []
        hook = self.model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
        try:
            for logits in self.pieces(ids, rows):
                yield self._array(kept.pop()[0]), logits
        finally:
            hook.remove()

    def reader(self, head: Head) -> Callable[[Floats], torch.Tensor]:
        """Return a function that computes logits from head inputs, in fp32 on the device."""
        weight = torch.from_numpy(head.weight).to(self._device)
        bias = None if head.bias is None else torch.from_numpy(head.bias).to(self._device)

        @torch.inference_mode()
        def logits(hidden: Floats) -> torch.Tensor:
            inputs = torch.from_numpy(hidden).to(self._device).float()
            made: torch.Tensor = head.transform.apply(torch.nn.functional.linear(inputs, weight, bias), torch.tanh)
            return made

        return logits

    def head(self) -> Head:
        """Return the output projection in fp32."""
        layer = self.model.get_output_embeddings()
        bias = getattr(layer, "bias", None)
        return Head(
            weight=self._array(layer.weight.detach()),
            bias=None if bias is None else self._array(bias.detach()),
            transform=Transform.of_config(self.model.config.get_text_config().to_dict()),
        )

    def _decoded(self, ids: torch.Tensor) -> Any:
        """Return the decoder's output for all of `ids`, or None if the model has no separate decoder.

        The head computes the logits of the last position only, which saves memory.
        """
        kept: list[Any] = []
        decoder = self.model.get_decoder()
        if decoder is self.model:
            return None
        hook = decoder.register_forward_hook(lambda *made: kept.append(made[-1]))
        try:
            self.model(ids, use_cache=False, logits_to_keep=1)
        finally:
            hook.remove()
        return kept[0] if kept and getattr(kept[0], "last_hidden_state", None) is not None else None

    def _advance(self, ids: torch.Tensor, cache: Any) -> int:
        out = self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        self._cache = out.past_key_values
        return int(out.logits[0, -1].argmax())

    def _tensor(self, ids: Ints) -> torch.Tensor:
        return torch.from_numpy(ids.astype(numpy.int64))[None].to(self._device)

    @staticmethod
    def _array(tensor: torch.Tensor) -> Floats:
        return numpy.asarray(tensor.float().cpu().numpy(), dtype=numpy.float32)


@contextmanager
def _answering(decoder: Any, output: Any) -> Iterator[None]:
    """Make a decoder return `output` for any input."""
    own = vars(decoder).get("forward")  # accelerate replaces `forward` on the instance
    decoder.forward = lambda *_, **__: output
    try:
        yield
    finally:
        del decoder.forward
        if own is not None:
            decoder.forward = own
