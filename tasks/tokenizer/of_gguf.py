"""Inside a job: writes the tokenizer and chat template that transformers reads from a GGUF to files."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantmill.errors import SourceError
from tasks.model.gguf import one_line, read_by_transformers, read_gguf, rewrite_json
from tasks.tokenizer import sentencepiece_model

if TYPE_CHECKING:
    from gguf import GGUFReader

# Fields in which transformers records the machine and its own class names; no reader needs them.
_LOCAL_KEYS = ("backend", "is_local", "local_files_only", "name_or_path", "tokenizer_file")


def save(gguf: Path, out: Path, context_length: int | None = None, reader: "GGUFReader | None" = None) -> None:
    """Write the tokenizer and chat template that transformers reads from a GGUF to the folder `out`.

    The written files contain no data of this machine.

    Args:
        gguf: the GGUF file.
        out: the folder.
        context_length: the model's context length in tokens.
        reader: a reader of the file, if one exists already.

    Raises:
        SourceError: the file is no complete GGUF, or transformers does not know this kind of tokenizer.
    """
    from transformers import AutoTokenizer

    reader = reader or read_gguf(gguf)
    try:
        with read_by_transformers(reader):
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
    except (ValueError, KeyError, NotImplementedError, TypeError) as error:
        raise SourceError(f"{gguf.name}: transformers cannot read its tokenizer ({one_line(error)})") from error
    tokenizer.save_pretrained(out)
    if model := sentencepiece_model.of_gguf(reader.fields):
        (out / sentencepiece_model.FILE).write_bytes(model)  # the converter and the check read it

    def portable(settings: dict[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in settings.items() if key not in _LOCAL_KEYS}
        if kept.get("tokenizer_class") == "TokenizersBackend":  # transformers 4 knows only the older name
            kept["tokenizer_class"] = "PreTrainedTokenizerFast"
        if context_length is not None:
            kept["model_max_length"] = context_length
        return {**kept, "clean_up_tokenization_spaces": False}

    rewrite_json(out / "tokenizer_config.json", portable)
