"""Checks whether a source has a chat template, before the source becomes a snapshot."""

from quantmill.recipe.recipe import ModelRequest
from tasks.model.architecture import read_json
from tasks.model.gguf import read_gguf
from tasks.source import places
from tasks.tokenizer.chat import FILES


def lacks_template(request: ModelRequest) -> bool:
    """Return whether a source is known to have no chat template; False for a remote source."""
    if request.remote:
        return False
    path = places.locate(request.source)
    if not path.is_dir():
        return "tokenizer.chat_template" not in read_gguf(path, vocabulary=False).fields
    if any((path / name).is_file() for name in FILES[:2]):
        return False
    config = path / "tokenizer_config.json"
    return not (config.is_file() and read_json(config).get("chat_template"))
