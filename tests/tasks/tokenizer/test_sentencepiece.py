"""Sentencepiece vocabularies: the folder against llama.cpp, with the sentencepiece library as referee.

The vocabulary is learned here and has the peculiarities of Llama 2's and Mistral's: a piece for each byte, runs of blanks of
equal score, and a tokenizer.json that orders the merges of those runs.
"""

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from quantmill.errors import SourceError
from quantmill.recipe.recipe import ModelRequest
from quantmill.settings import Settings
from quantmill.store.places import open_store
from tasks.sandbox import Sandbox
from tasks.source import download
from tasks.tokenizer import check as tokenizer_check
from tasks.tokenizer import from_sentencepiece, sentencepiece_model
from tasks.tokenizer.probe import probe_text
from tasks.tokenizer.sentencepiece_model import NORMAL, Referee
from tests.line import Line

RUNS = ["▁" * 2, "▁" * 4, "▁" * 8, "▁" * 16, "▁" * 3, "▁" * 5, "▁" * 6, "▁" * 7, "▁" * 10, "▁" * 14]


def proto_of(path: Path) -> Any:
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(path.read_bytes())
    return proto


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tokenizer.model and tokenizer.json of one vocabulary."""
    from sentencepiece import SentencePieceTrainer

    folder, made = tmp_path_factory.mktemp("sentencepiece"), io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(probe_text().splitlines()[:1500]),
        model_writer=made,
        model_type="bpe",
        vocab_size=1000,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(made.getvalue())
    proto = proto_of(folder / "tokenizer.model")
    held = {piece.piece for piece in proto.pieces}
    for run in RUNS:
        if run not in held:
            proto.pieces.add(piece=run, score=-1e9, type=NORMAL)
    proto.trainer_spec.vocab_size = len(proto.pieces)
    (folder / "tokenizer.model").write_bytes(proto.SerializeToString())
    vocabulary = {piece.piece: number for number, piece in enumerate(proto.pieces)}
    scored = sorted((p for p in proto.pieces if p.type == NORMAL), key=lambda piece: -piece.score)
    cuts = ((p.piece[:at], p.piece[at:]) for p in scored for at in range(1, len(p.piece)))
    model = {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "vocab": vocabulary}
    model["merges"] = [list(pair) for pair in cuts if pair[0] in vocabulary and pair[1] in vocabulary]
    special = [
        {"id": number, "content": proto.pieces[number].piece, "special": True, "normalized": False}
        | {"single_word": False, "lstrip": False, "rstrip": False}
        for number in range(3)
    ]
    blank = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, blank]}
    content = {"version": "1.0", "added_tokens": special, "normalizer": normalizer, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"unk_token": "<unk>"}))
    return folder


@pytest.fixture
def folder(learned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(learned, tmp_path / "folder"))


def vocabulary_of(model: bytes, out: Path) -> Path:
    """Write a GGUF of nothing but the vocabulary of a `tokenizer.model`."""
    from gguf import GGUFWriter
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model)
    writer = GGUFWriter(out, "llama")
    for name in ("block_count", "context_length", "embedding_length", "feed_forward_length", "head_count"):
        getattr(writer, f"add_{name}")(1)
    writer.add_layer_norm_rms_eps(1)
    writer.add_vocab_size(len(proto.pieces))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([piece.piece for piece in proto.pieces])
    writer.add_token_scores([piece.score for piece in proto.pieces])
    writer.add_token_types([piece.type for piece in proto.pieces])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return out


def test_where_tokenizer_model_lies_there_the_library_decides(folder: Path, tmp_path: Path) -> None:
    gguf = vocabulary_of((folder / "tokenizer.model").read_bytes(), tmp_path / "v.gguf")
    assert tokenizer_check.examine(folder, gguf) == (None, 0)


def test_without_it_runs_that_are_cut_otherwise_are_counted(folder: Path, tmp_path: Path) -> None:
    gguf = vocabulary_of((folder / "tokenizer.model").read_bytes(), tmp_path / "v.gguf")
    (folder / "tokenizer.model").unlink()
    difference, recut = tokenizer_check.examine(folder, gguf)
    assert difference is None
    assert 0 < recut < 5000


@pytest.mark.parametrize("kept", [True, False])
def test_another_text_is_refused_with_and_without_it(kept: bool, folder: Path, tmp_path: Path) -> None:
    gguf = vocabulary_of((folder / "tokenizer.model").read_bytes(), tmp_path / "v.gguf")
    if not kept:
        (folder / "tokenizer.model").unlink()
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["▁the"], vocabulary["▁of"] = vocabulary["▁of"], vocabulary["▁the"]
    path.write_text(json.dumps(content))
    assert tokenizer_check.compare(folder, gguf) is not None


def test_tokenizer_json_alone_gives_the_converter_the_same_model(folder: Path, tmp_path: Path) -> None:
    true = Referee((folder / "tokenizer.model").read_bytes(), {})
    (folder / "tokenizer.model").unlink()
    (place := tmp_path / "place").mkdir()
    made = sentencepiece_model.complete(folder, place)
    assert made == place
    said = Referee((made / "tokenizer.model").read_bytes(), {})
    text = "A plain sentence, 1,024 words: naïve 你好 🚀 of the value."
    assert said.ids(text) == true.ids(text)
    gguf = vocabulary_of((made / "tokenizer.model").read_bytes(), tmp_path / "v.gguf")
    assert tokenizer_check.compare(folder, gguf) is None
    decoder = json.loads((made / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert {token["content"] for token in decoder.values()} == {"<s>", "</s>"}


def model_of(learned: Path, folder: Path) -> Path:
    """Write a small random Llama with the vocabulary that was learned."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shutil.copytree(learned, folder)
    rows = len(json.loads((learned / "tokenizer.json").read_text())["model"]["vocab"])
    sizes = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 4}
    torch.manual_seed(0)
    made = LlamaForCausalLM(
        LlamaConfig(vocab_size=rows, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, **sizes)
    )
    made.to(torch.bfloat16).save_pretrained(folder)
    path = folder / "tokenizer.json"
    parts = [
        ({"SpecialToken": {"id": "<s>", "type_id": at}}, {"Sequence": {"id": "AB"[at], "type_id": at}}) for at in (0, 1)
    ]
    begins: dict[str, Any] = {"type": "TemplateProcessing", "single": parts[0], "pair": [*parts[0], *parts[1]]}
    begins["special_tokens"] = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": begins}))
    path = folder / "tokenizer_config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True})
    )
    return folder


def compressed(
    place: Path, home: Path, source: Path, variants: list[dict[str, Any]], prefect_url: str
) -> dict[str, Any]:
    """Return the rows of a run through the command, by name; all were accepted."""
    recipe = {
        "model": {"source": str(source)},
        "calibration": {"samples": 2, "sequence_length": 128},
        "evaluation": {"samples": 3, "sequence_length": 128},
        "variants": variants,
        "gates": {"max_perplexity_ratio": 1e6, "max_mean_kl": 1e6, "max_p99_kl": 1e6, "min_top1_agreement": 0, "max_size_ratio": 100},
        "publish": {"model": "m"},
    }  # fmt: skip
    line = Line(place, home, recipe, PREFECT_API_URL=prefect_url, QUANTMILL_MLFLOW_URI="http://127.0.0.1:9")
    code, summary, _ = line.run()
    rows = {row["name"]: row for row in summary["variants"]}
    assert code == 0 and {row["status"] for row in rows.values()} == {"accepted"}, rows
    return rows


@pytest.mark.slow
def test_a_model_of_the_family_goes_through_the_command_as_folder_and_as_gguf(
    learned: Path, tmp_path: Path, prefect_url: str
) -> None:
    """Without `tokenizer.model` transformers' Llama class reads a first blank differently: a mark says so."""
    folder, home = model_of(learned, tmp_path / "mistral"), tmp_path / "home"  # a name that once decided
    (folder / "tokenizer.model").unlink()
    asked = [{"method": "gguf", "type": "Q4_K_M"}]
    (row,) = compressed(tmp_path / "folder", home, folder, asked, prefect_url).values()
    (mark,) = [mark for mark in row["marks"] if "ids of runs" in mark]
    assert re.fullmatch(r"[1-9]\d* ids of runs differ", mark)
    (again,) = compressed(tmp_path / "again", home, folder, asked, prefect_url).values()
    assert (again["cached"], again["marks"]) == (True, row["marks"])

    store = open_store(home / "store")
    (entry,) = [file for file in store.manifest(row["manifest"]).files if file.path.endswith(".gguf")]
    store.fetch((entry,), tmp_path / "pulled")
    (row,) = compressed(tmp_path / "gguf", home, tmp_path / "pulled" / entry.path, asked, prefect_url).values()
    assert not [mark for mark in row["marks"] if "ids of runs" in mark], "the folder is of our making"


@pytest.mark.parametrize(
    "settings", [{"tokenizer_class": "LlamaTokenizer"}, {}, {"tokenizer_class": "LlamaTokenizerFast"}]
)
def test_a_folder_with_tokenizer_model_alone_gets_a_tokenizer_json(folder: Path, settings: dict[str, str]) -> None:
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer

    (folder / "tokenizer.json").unlink()
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special | settings))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    words = from_sentencepiece.complete(folder)
    assert words.startswith("tokenizer.json made from tokenizer.model by transformers ")
    referee, made = (
        SentencePieceProcessor(model_file=str(folder / "tokenizer.model")),
        Tokenizer.from_file(str(folder / "tokenizer.json")),
    )
    for text in ("Once upon a time", "two  blanks, größer 中文 \U0001f680\n\ttab", ""):
        assert made.encode(text, add_special_tokens=False).ids == referee.encode(text)
    assert from_sentencepiece.complete(folder) == "", "nothing is left to make"


def test_a_model_that_is_none_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(SourceError, match=r"tokenizer\.model: sentencepiece cannot read it"):
        from_sentencepiece.complete(folder)


@pytest.mark.slow
def test_such_a_folder_is_taken_in(learned: Path, tmp_path: Path) -> None:
    model, settings = model_of(learned, tmp_path / "model"), Settings(home=tmp_path / "home")
    (model / "tokenizer.json").unlink()
    settings.home.mkdir()
    origin = download.inspect_source(ModelRequest(source=str(model)), settings.home)
    assert "tokenizer.json" not in {file.path for file in origin.files}
    snapshot = download.fetch_snapshot(origin, open_store(settings.store_uri), Sandbox(settings))
    assert {"tokenizer.json", "tokenizer.model"} <= {file.path for file in snapshot.files}
    assert [note for note in snapshot.notes if note.startswith("tokenizer.json made from tokenizer.model")]
