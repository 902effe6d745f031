"""A snapshot with a tokenizer, and a bench that makes token sets from it."""

import json
from pathlib import Path
from typing import Any

from quantmill.files import keys
from quantmill.files.entries import FileEntry
from quantmill.recipe.recipe import ModelRequest, Recipe
from quantmill.recipe.recipe_file import parse_recipe
from quantmill.records.artifact import Architecture, Origin, Snapshot, TokenSet
from quantmill.settings import Settings
from quantmill.store.places import open_store
from tasks.sandbox.sandbox import ClosedSandbox, Sandbox
from tasks.text import calibrate

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}\n{% endfor %}{{ strftime_now('%Y-%m-%d') }}\n"
)


class Bench:
    """A home with a store and a snapshot that is nothing but a tokenizer with a chat template."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = Settings(home=folder / "home")
        self.store, self.sandbox = open_store(self.settings.store_uri), Sandbox(self.settings)
        self.snapshot = self.made(TEMPLATE)

    def made(self, template: str) -> Snapshot:
        """Return a snapshot whose folder is already in the home."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokenizer = Tokenizer(models.BPE(vocab={sign: index for index, sign in enumerate(alphabet)}, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(["<s>"])
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 256)])
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"}
        contents = {"tokenizer.json": tokenizer.to_str(), "tokenizer_config.json": json.dumps(config)}
        contents |= {"chat_template.jinja": template} if template else {}
        place = self.folder / "model"
        place.mkdir(exist_ok=True)
        for path in place.iterdir():
            path.unlink()
        for name, content in contents.items():
            (place / name).write_text(content)
        files = tuple(
            FileEntry(path=p.name, size_bytes=p.stat().st_size, sha256=keys.file_sha256(p)) for p in place.iterdir()
        )
        shape = Architecture(
            name="L", model_type="l", layers=1, hidden_size=1, vocabulary_size=257, linear_inputs=(1,), packing=None
        )
        origin = Origin(request=ModelRequest(source=str(place)), kind="folder", files=files, architecture=shape)
        snapshot = Snapshot(origin=origin, files=files, parameters=1)
        cached = self.settings.home / "snapshots" / snapshot.digest
        cached.parent.mkdir(parents=True, exist_ok=True)
        if not cached.exists():
            place.rename(cached)
            place.mkdir()
            for path in cached.iterdir():
                (place / path.name).write_bytes(path.read_bytes())
        return snapshot

    def build(self, snapshot: Snapshot | None = None, closed: bool = False, **calibration: Any) -> TokenSet:
        sandbox = ClosedSandbox(self.settings) if closed else self.sandbox
        made, _ = calibrate.build_token_sets(
            self.recipe(**calibration), snapshot or self.snapshot, self.store, sandbox, True
        )
        assert made
        return made

    def recipe(self, **calibration: Any) -> Recipe:
        return parse_recipe(
            {
                "model": {"source": self.snapshot.origin.request.source},
                "variants": [{"method": "gptq"}],
                "calibration": {"samples": 6, "sequence_length": 32} | calibration,
                "evaluation": {"samples": 37, "sequence_length": 8},
            }
        )

    def texts(self, tokens: TokenSet) -> list[str]:
        """Return the windows as text, BOS as `^`."""
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        self.store.fetch((tokens.file,), self.folder / "laid" / tokens.digest)
        ids = load_file(self.folder / "laid" / tokens.digest / tokens.file.path)["input_ids"]
        tokenizer = Tokenizer.from_file(str(self.folder / "model" / "tokenizer.json"))
        return ["".join("^" if i == 256 else tokenizer.decode([i]) for i in window) for window in ids.tolist()]

    def count(self) -> int:
        return len(list((Path(self.settings.store_uri) / "stages" / "tokens").glob("*.json")))
