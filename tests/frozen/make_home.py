"""Makes `home.tar.xz`; ran once, with the code of commit f5273e7 and its lock. See README.md.

    git worktree add --detach f5273e7 f5273e7      # with its environment installed in f5273e7/.venv
    cd f5273e7 && .venv/bin/python .../tests/frozen/make_home.py /tmp/frozen

The home has two runs of the line, a channel with two moves, an MLflow database, a run that waits in the outbox, and two landings,
one of them taken. The script also writes `expected.json`: the answers of the same code to the questions about the frozen home.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

CODE = Path.cwd()
sys.path.insert(0, str(CODE))
TEXTS = ("README.md", "docs/methods.md", "docs/decisions.md", "docs/consuming.md", "docs/operations.md")
VOCABULARY, HIDDEN, INTERMEDIATE, LAYERS, STEPS = 384, 64, 128, 2, 400
THREADS = "1"
HERE = Path(__file__).resolve().parent
KEPT = (
    "model", "text.txt", "first.json", "second.json", "keys/keyring", "home/store", "home/mlflow/mlflow.db", "home/origins",
)  # fmt: skip
KEY = "keys/quantmill.private.pem"
TOKENS = {"source": "./text.txt", "samples": 8, "sequence_length": 64}
RECIPE: dict[str, Any] = {
    "model": {"source": "./model"},
    "calibration": TOKENS | {"seed": 0},
    "evaluation": TOKENS | {"seed": 1},
    "variants": [
        {"method": "bitsandbytes", "type": ["int8", "nf4"]},
        {"method": "gptq", "bits": 4, "group_size": 32},
        {"method": "awq", "bits": 4, "group_size": 32},
        {"method": "hqq", "bits": 4, "group_size": 32},
        {"method": "autoround", "bits": 4, "group_size": 32, "iterations": 2},
        {"method": "gguf", "type": ["Q8_0", "Q4_0"]},
    ],
    "gates": {"max_perplexity_ratio": 2.0, "max_mean_kl": 1.0, "max_size_ratio": 3.0},
    "publish": {"model": "frozen", "channel": "stable"},
}
SECOND = RECIPE | {"evaluation": TOKENS | {"seed": 2}, "variants": [{"method": "gguf", "type": "Q8_0"}]}


def main() -> None:
    place = Path(sys.argv[1])
    place.mkdir(parents=True)
    text = "\n".join((CODE / name).read_text(encoding="utf-8") for name in TEXTS)
    text = text.replace("|", " ")
    blocks = [" ".join(block.split()) for block in text.split("\n\n")]
    (place / "text.txt").write_text("\n\n".join(block for block in blocks if len(block) > 40) + "\n", encoding="utf-8")
    make_tokenizer(place)
    make_model(place)
    for name, recipe in (("first", RECIPE), ("second", SECOND)):
        (place / f"{name}.json").write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
    quantmill(place, "keys", "create")
    quantmill(place, "compress", "first.json")
    quantmill(place, "compress", "second.json", mlflow="http://127.0.0.1:9")  # nobody answers there
    finish(place)


def finish(place: Path) -> None:
    """Add landings and an unneeded blob, pack the folder, and write the answers about it to a file."""
    import answers

    from quantmill.store.places import open_store
    from tasks import landings

    store = open_store(place / "home" / "store", 36500)
    for name in ("first", "second"):
        seen = landings.Landing(
            model=name, revision="1", changed="new", files={"config.json": "ab" * 32}, recipe=RECIPE, seen_at=1.0
        )
        landings.claim(store, seen)
        if name == "first":
            landings.begin(store, seen.key, "a run of then")
    (place / "abandoned").mkdir()
    (place / "abandoned" / "w").write_text("a blob that nothing needs")
    store.leases.release(entry.sha256 for entry in store.add_folder(place / "abandoned"))
    packed = place.with_name("packed")
    packed.mkdir()
    for name in KEPT:
        source, target = place / name, packed / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy2(source, target)
    subprocess.run(
        ["tar", "--sort=name", "--owner=0", "--group=0", "-cJf", str(HERE / "home.tar.xz"), "."], cwd=packed, check=True
    )
    shutil.copyfile(CODE / "requirements.lock", HERE / "requirements.lock")
    os.chdir(packed)
    os.environ |= answers.SETTINGS
    said = answers.cached() | answers.producing() | answers.consuming()
    (HERE / "expected.json").write_text(json.dumps(said, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def make_tokenizer(place: Path) -> None:
    """Train a sentencepiece vocabulary and write the same one as tokenizer.json."""
    import sentencepiece
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    folder = place / "model"
    folder.mkdir()
    sentencepiece.SentencePieceTrainer.train(
        input=str(place / "text.txt"), model_prefix=str(place / "tokenizer"), model_type="bpe", vocab_size=VOCABULARY,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, character_coverage=0.98,
        num_threads=1, minloglevel=2,
    )  # fmt: skip
    (place / "tokenizer.vocab").unlink()
    (place / "tokenizer.model").rename(folder / "tokenizer.model")
    trained = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    vocabulary = {trained.id_to_piece(number): number for number in range(trained.vocab_size())}
    merges = [
        (-trained.get_score(number), vocabulary[piece[:at]], vocabulary[piece[at:]], (piece[:at], piece[at:]))
        for piece, number in vocabulary.items()
        for at in range(1, len(piece))
        if trained.is_unknown(number) is False and piece[:at] in vocabulary and piece[at:] in vocabulary
    ]
    model = models.BPE(
        vocabulary, [merge[3] for merge in sorted(merges)], unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = [AddedToken(name, normalized=False, special=True) for name in ("<unk>", "<s>", "</s>")]
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
              "add_bos_token": False, "add_eos_token": False, "legacy": True, "clean_up_tokenization_spaces": False,
              "model_max_length": 256}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def make_model(place: Path) -> None:
    """Train a Llama for seconds: enough to predict better than counting tokens does."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer
    from torch.nn.functional import cross_entropy
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"], dtype=torch.bfloat16, vocab_size=VOCABULARY, hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE, num_hidden_layers=LAYERS, num_attention_heads=2, num_key_value_heads=2,
        max_position_embeddings=256, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config).float()
    tokenizer = Tokenizer.from_file(str(place / "model" / "tokenizer.json"))
    ids = torch.tensor(tokenizer.encode((place / "text.txt").read_text(encoding="utf-8"), add_special_tokens=False).ids)
    stepper = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(stepper, 6e-3, total_steps=STEPS)
    for step in range(STEPS):
        begins = torch.randint(len(ids) - 65, (16,))
        batch = torch.stack([ids[begin : begin + 65] for begin in begins.tolist()])
        loss = cross_entropy(model(input_ids=batch[:, :-1]).logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        stepper.step()
        stepper.zero_grad()
        schedule.step()
        if step % 50 == 49:
            print(f"step {step + 1}: loss {loss.item():.2f}", flush=True)  # noqa: T201  a script
    model.to(torch.bfloat16)
    folder = place / "model"
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    kept = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # safetensors leaves it readable to its owner only
    print(sum(tensor.numel() for tensor in kept.values()), "weights", len(ids), "tokens")  # noqa: T201  a script


def quantmill(place: Path, *words: str, mlflow: str = "") -> str:
    """Return what a command of the code of then says in the frozen folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("QUANTMILL", "PREFECT"))}
    more = {
        "QUANTMILL_HOME": "home",
        "QUANTMILL_THREADS": THREADS,
        "QUANTMILL_MLFLOW_URI": mlflow,
        "PYTHONPATH": str(CODE),
    }
    if (place / KEY).exists():
        more["QUANTMILL_SIGNING_KEY"] = KEY
    command = [sys.executable, "-m", "quantmill.cli", *words]
    done = subprocess.run(command, cwd=place, env=kept | more, check=True, text=True, stdout=subprocess.PIPE)
    print(done.stdout[-3000:], flush=True)  # noqa: T201  a script
    return done.stdout


if __name__ == "__main__":
    main()
