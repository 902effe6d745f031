"""A cloned repository: files that are not part of the model are left out, and the line says which."""

import json
import logging
import os
from pathlib import Path

import pytest

from quantmill.errors import SourceError
from quantmill.files import contents
from quantmill.recipe.recipe import ModelRequest
from tasks.model import files
from tasks.source.places import open_source
from tests.model_folders import clutter, model_folder, sharded_folder


def test_what_is_no_part_of_the_model_is_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = model_folder(tmp_path / "model")
    clutter(folder)
    with caplog.at_level(logging.WARNING):
        origin = open_source(ModelRequest(source=str(folder)), tmp_path / "home").inspect()
    used = ["LICENSE-MODEL", "USE_POLICY.md", "config.json", "model.safetensors", "tokenizer.json"]
    assert [file.path for file in origin.files] == used
    said = (
        "LICENSE.pdf, consolidated.safetensors, model.safetensors.index.json, modeling_llama.py, original/, picture.png"
    )
    assert f"left out: {said} and 1 more ({folder})" in caplog.text


def test_parts_win_over_pickles_and_strays(tmp_path: Path) -> None:
    folder = sharded_folder(tmp_path / "model")
    index = (folder / files.INDEX).read_bytes()
    clutter(folder)
    (folder / files.INDEX).write_bytes(index)
    parts = [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    assert [name for name in files.list_files(folder) if name.endswith(".safetensors")] == parts


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model-00001-of-00002.safetensors", "model.gguf"])
def test_a_folder_without_weights_says_what_it_found(tmp_path: Path, name: str) -> None:
    folder = model_folder(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(SourceError, match=f"found {name}; weights are taken as model.safetensors, or as parts that"):
        files.list_files(folder)


def test_links_and_pipes_matter_where_the_file_is_used(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    (folder / "notes.txt").symlink_to("/etc/hostname")
    (folder / "gone.png").symlink_to("nowhere")
    os.mkfifo(folder / "pipe")
    assert files.list_files(folder) == ["config.json", "model.safetensors", "tokenizer.json"]
    (folder / "LICENSE.md").symlink_to("/etc/hostname")
    with pytest.raises(SourceError, match=r"LICENSE\.md: a link that leaves the folder"):
        files.list_files(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", files.INDEX])
def test_a_link_out_of_the_folder_is_refused_before_it_is_read(tmp_path: Path, name: str) -> None:
    folder = sharded_folder(tmp_path / "model") if name == files.INDEX else model_folder(tmp_path / "model")
    (folder / name).rename(tmp_path / "secret")
    (folder / name).symlink_to(tmp_path / "secret")
    with pytest.raises(SourceError, match="a link that leaves the folder"):
        files.list_files(folder)


def test_terms_are_text(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", LICENSE__md=b"\x80\x04pickle")
    with pytest.raises(SourceError, match=r"LICENSE\.md: not text in UTF-8"):
        files.list_files(folder)


@pytest.mark.parametrize(
    ("name", "is_one", "published"),
    [
        ("LICENSE", True, "LICENSE"), ("LICENSE.md", True, "LICENSE.md"), ("LICENSE-CODE", True, "LICENSE-CODE.txt"),
        ("NOTICE", True, "NOTICE"), ("USE_POLICY.md", True, "USE_POLICY.md"), ("USE_POLICY", True, "USE_POLICY.txt"),
        ("LICENSE.py", False, ""), ("LICENSES", False, ""), ("license.md", False, ""), ("LICENSE.txt.exe", False, ""),
    ],
)  # fmt: skip
def test_which_files_state_terms(name: str, is_one: bool, published: str) -> None:
    assert contents.is_licence(name) == is_one
    assert not published or contents.licence_name(name) == published


@pytest.mark.parametrize("names", [("LICENSE-A", "LICENSE-A.txt"), ("LICENSE-A", "LICENSE-a")])
def test_terms_that_would_be_published_under_one_name_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    folder = model_folder(tmp_path / "model")
    for name in names:
        (folder / name).write_text(name)
    with pytest.raises(SourceError, match=f"{names[0]} and {names[1]} would be published under one name"):
        files.list_files(folder)


def test_a_quantized_folder_leaves_out_terms_that_older_consumers_refuse(tmp_path: Path) -> None:
    packed = {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}
    folder = model_folder(tmp_path / "model", packed, LICENSE__md=b"Terms.")
    (folder / "LICENSE-MODEL").write_text("Terms.")
    assert files.list_files(folder) == ["LICENSE.md", "config.json", "model.safetensors", "tokenizer.json"]


def test_an_index_that_names_no_weights(tmp_path: Path) -> None:
    folder = sharded_folder(tmp_path / "model")
    (folder / files.INDEX).write_text('{"weight_map": {}}')
    with pytest.raises(SourceError, match="names no weights"):
        files.list_files(folder)


def test_odd_names_of_unused_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = model_folder(tmp_path / "model")
    for name in ("a\nerror: forged", "b\x1b[31m.bin", "LICENSE.", os.fsdecode(b"\xff\xfe.bin")):
        (folder / name).write_bytes(b"")
    (folder / "model.safetensors.index.json").mkdir()
    source = open_source(ModelRequest(source=str(folder)), tmp_path / "home")
    assert json.dumps(source.stamp)
    with caplog.at_level(logging.WARNING):
        source.inspect()
    assert "\x1b" not in caplog.text and "\nerror" not in caplog.text
    assert "'a\\nerror: forged'" in caplog.text
