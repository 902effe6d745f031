"""Errors of sources name no field; the caller adds the recipe's field and keeps the error's type."""

from pathlib import Path

import pytest

from quantmill.errors import (
    DownloadError,
    NotEnoughSpace,
    QuantmillError,
    RequestError,
    SourceError,
    VerificationError,
)
from quantmill.recipe.recipe import ModelRequest
from tasks.source import download, fields, places
from tests.model_folders import ROOT, model_folder


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (SourceError("x"), "model.source: x"),
        (DownloadError("x"), "model.source: x"),
        (VerificationError("x"), "model.source: x"),
        (NotEnoughSpace("/disk: x"), "/disk: x"),
    ],
)
def test_the_type_stays(error: QuantmillError, said: str) -> None:
    with pytest.raises(QuantmillError) as raised, fields.of_model():
        raise error
    assert (type(raised.value), str(raised.value)) == (type(error), said)


def test_a_revision_has_a_field_of_its_own(tmp_path: Path) -> None:
    request = ModelRequest(source=str(model_folder(tmp_path / "model")), revision="0000")
    for look in (download.preview_source, download.inspect_source):
        with pytest.raises(RequestError, match=r"^model\.revision: 0000: the source's digest is ") as raised:
            look(request, tmp_path / "home")
        assert type(raised.value) is SourceError


def test_a_source_alone_names_no_field(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"^\./nothing: no such file or folder$"):
        places.open_source(ModelRequest(source="./nothing"), tmp_path)
    with pytest.raises(SourceError, match=r"^model\.source: \./nothing: no such file or folder$"):
        download.preview_source(ModelRequest(source="./nothing"), tmp_path)
    with pytest.raises(SourceError, match=r"^hf://org/name: a model of a hub; its files are not on this machine"):
        places.locate("hf://org/name")


def test_the_field_is_written_in_one_place() -> None:
    rooms = ("tasks/source", "tasks/model", "tasks/tokenizer", "quantmill/recipe")
    modules = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    assert [path.name for path in modules if '"model.source' in path.read_text(encoding="utf-8")] == ["fields.py"]
