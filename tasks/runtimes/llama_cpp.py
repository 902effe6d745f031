"""llama.cpp: a folder with one GGUF file -> logits, through llama-cpp-python."""

from pathlib import Path

import llama_cpp
import numpy

from tasks.metrics import Floats, Ints
from tasks.runtimes.protocol import Machine

PACKAGE = "llama-cpp-python"


def load(folder: Path, machine: Machine, context: int, scoring: bool) -> "LlamaCpp":
    """Open the folder's GGUF file; `scoring` keeps the logits of every position, and keys and values in fp32."""
    return LlamaCpp(next(folder.glob("*.gguf")), machine, context, scoring)


class LlamaCpp:
    """A GGUF model in llama.cpp. Activations are what its kernels make of them: Q8 blocks for most quantized types."""

    def __init__(self, path: Path, machine: Machine, context: int, scoring: bool) -> None:
        """Map the file."""
        self._model = llama_cpp.Llama(
            model_path=str(path),
            n_ctx=context,
            n_batch=context,
            n_ubatch=context,
            n_threads=machine.threads,
            n_threads_batch=machine.threads,
            n_gpu_layers=0 if machine.device == "cpu" else -1,
            logits_all=scoring,
            # llama.cpp keeps keys and values in fp16, which alone costs a KL of 1e-6; its flash attention costs 0.3 %.
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
        self._model.reset()
        self._model.eval(ids.tolist())
        return numpy.array(self._model.scores[: len(ids)], dtype=numpy.float32)

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
        """Return the text of tokens."""
        return str(self._model.detokenize(tokens).decode(errors="replace"))

    def close(self) -> None:
        """Free the weights."""
        self._model.close()

    def _likeliest(self) -> int:
        size = self._model.n_vocab()
        last = llama_cpp.llama_get_logits_ith(self._model.ctx, -1)
        return int(numpy.ctypeslib.as_array(last, shape=(size,)).argmax())
