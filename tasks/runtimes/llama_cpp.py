"""llama.cpp: loads a folder with one GGUF file, through llama-cpp-python."""

from collections.abc import Callable, Iterator
from pathlib import Path

import llama_cpp
import numpy

from tasks.metrics import Floats, Ints
from tasks.runtimes.head import Head
from tasks.runtimes.protocol import ROWS, Machine

PACKAGE = "llama-cpp-python"


def load(folder: Path, machine: Machine, context: int, scoring: bool) -> "LlamaCpp":
    """Load the folder's GGUF file; `scoring` keeps the cache of keys and values in fp32."""
    return LlamaCpp(next(folder.glob("*.gguf")), machine, context, scoring)


class LlamaCpp:
    """A GGUF model in llama.cpp.

    For most quantized types, llama.cpp's kernels quantize the activations to Q8 blocks.
    """

    def __init__(self, path: Path, machine: Machine, context: int, scoring: bool, rows: int = ROWS) -> None:
        """Map the file into memory; `rows` is the largest batch when scoring."""
        batch = min(context, rows) if scoring else context  # llama.cpp holds the logits of a whole batch
        self._model = llama_cpp.Llama(
            model_path=str(path),
            n_ctx=context,
            n_batch=batch,
            n_ubatch=batch,
            n_threads=machine.threads,
            n_threads_batch=machine.threads,
            n_gpu_layers=0 if machine.device == "cpu" else -1,
            # By default llama.cpp keeps keys and values in fp16, a KL of 1e-6; its flash attention costs 0.3 %.
            **({"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32} if scoring else {}),
            flash_attn=False,
            verbose=False,
        )
        kind = self._model.metadata.get("general.file_type", "")
        self.compute_dtype = "float32" if kind == "0" else "llama.cpp"
        features = llama_cpp.llama_print_system_info().decode()
        on = [
            part.split("=")[0].strip() for part in features.replace(":", "|").split("|") if part.strip().endswith("= 1")
        ]
        self.kernel = "ggml " + " ".join(on)

    def logits(self, ids: Ints) -> Floats:
        """Return the logits (length, vocabulary) after each of `ids` (length,)."""
        return numpy.concatenate([piece.copy() for piece in self.pieces(ids)])

    def pieces(self, ids: Ints) -> Iterator[Floats]:
        """Yield the logits after each of `ids` in order, one batch at a time, as a view of llama.cpp's array."""
        context, size, rows = self._model.ctx, self._model.n_vocab(), self._model.n_batch
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        batch = llama_cpp.llama_batch_init(rows, 0, 1)
        try:
            for start in range(0, len(ids), rows):
                piece = ids[start : start + rows]
                _fill(batch, piece, start)
                if code := llama_cpp.llama_decode(context, batch):
                    raise RuntimeError(f"llama_decode returned {code} at position {start} of {len(ids)}")
                yield numpy.ctypeslib.as_array(llama_cpp.llama_get_logits(context), shape=(len(piece), size))
        finally:
            llama_cpp.llama_batch_free(batch)

    def reader(self, head: Head) -> Callable[[Floats], Floats]:
        """Return a function that computes logits from head inputs."""
        return head.logits

    def start(self, ids: Ints) -> int:
        """Read a prompt into an empty cache and return the likeliest next token."""
        self._model.reset()
        self._model.eval(ids.tolist())
        return self._likeliest()

    def step(self, token: int) -> int:
        """Append one token and return the likeliest next one."""
        self._model.eval([token])
        return self._likeliest()

    def text(self, tokens: list[int]) -> str:
        """Decode tokens into text."""
        return str(self._model.detokenize(tokens).decode(errors="replace"))

    def close(self) -> None:
        """Free the weights."""
        self._model.close()

    def _likeliest(self) -> int:
        size = self._model.n_vocab()
        last = llama_cpp.llama_get_logits_ith(self._model.ctx, -1)
        return int(numpy.ctypeslib.as_array(last, shape=(size,)).argmax())


def _fill(batch: llama_cpp.llama_batch, ids: Ints, start: int) -> None:
    """Fill a batch with `ids` from position `start` on, and ask for the logits at all positions."""
    batch.n_tokens = len(ids)
    for index, token in enumerate(ids.tolist()):
        batch.token[index], batch.pos[index] = token, start + index
        batch.n_seq_id[index], batch.seq_id[index][0] = 1, 0
        batch.logits[index] = 1
