"""A cloned repository: files that are not part of the model are left out, and the line says which."""

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
