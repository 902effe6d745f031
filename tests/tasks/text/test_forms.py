"""JSON is rows whatever the file is called; one object and markup are refused with what to write."""

import json
from pathlib import Path
from typing import Any

import pytest

from quantmill.errors import TextError
from quantmill.recipe.texts import TextSource
from tasks.text import forms, sources
from tasks.text.rows import Document
from tests.conftest import SMOLLM2
from tests.model_folders import compress

ROWS = [{"text": "One row."}, {"text": "Another row."}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def read(path: Path, content: str, **fields: Any) -> list[Document]:
    path.write_text(content, encoding="utf-8")
    source = TextSource(source=str(path), **fields)
    return [one for role in ("calibration", "evaluation") for one in sources.take(source, role, 100, f"{role}.")]


@pytest.mark.parametrize("name", ["rows.json", "rows.txt", "rows.ndjson", "rows"])
@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        "\ufeff" + json.dumps(ROWS),
        json.dumps([row["text"] for row in ROWS]),
        LINES,
        LINES.replace("\n", "\n\n"),
    ],
    ids=["list", "indented", "mark", "texts", "lines", "apart"],
)
def test_json_is_rows_whatever_the_ending_is(tmp_path: Path, name: str, content: str) -> None:
    found = sorted(document.words for document in read(tmp_path / name, content))
    assert found == ["Another row.", "One row."]


def test_a_field_of_a_json_file_may_be_named(tmp_path: Path) -> None:
    rows = json.dumps([{"text": "no", "body": "One row."}])
    assert [one.words for one in read(tmp_path / "rows.json", rows, field="body")] == ["One row."]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "a.json",
            '{"text": "one",\n "more": 1}',
            "a.json: is one JSON object, which holds no rows; write rows: a list",
        ),
        ("a.txt", '{\n "text": "one"\n}', "a.txt: is one JSON object, which holds no rows"),
        ("a.json", "Plain words.", "a.json: is neither a list of rows nor one row a line; write rows"),
        ("a.json", "[1, 2]", "a.json: is neither a list of rows nor one row a line"),
        ("a.json", '["x", 2]', "a.json: row 2: must be an object or a text, is int"),
        ("a.json", '[{"body": "x"}]', "a.json has neither text nor messages; name one of its fields: body"),
        ("a.txt", "<html><body>" + "<p class='x'>word</p>\n" * 50, "looks like markup ("),
        ("a.txt", "<?xml version='1.0'?>" + "<row><name>x</name></row>\n" * 50, "looks like markup ("),
    ],
)
def test_what_holds_no_rows_says_what_to_write(tmp_path: Path, name: str, content: str, words: str) -> None:
    with pytest.raises(TextError) as raised:
        read(tmp_path / name, content)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "content",
    ["[1] A list of references.\n\n[2] Another.", "{a} braces in prose", "if a < b and c > d: pass\n" * 9, "a <b>word</b> of many"],
)  # fmt: skip
def test_prose_stays_prose(tmp_path: Path, content: str) -> None:
    assert " ".join(one.text for one in read(tmp_path / "a.txt", content)).split() == content.split()


def test_a_list_that_is_too_large_to_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "LIST_BYTES", 8)
    for name in ("a.json", "a.txt"):
        with pytest.raises(TextError, match="bytes of JSON; at most 8 are read whole; write one row a line"):
            read(tmp_path / name, json.dumps(ROWS))


@pytest.mark.parametrize("name", ["a.json", "a.txt"])
def test_a_first_row_longer_than_what_is_looked_at_first(tmp_path: Path, name: str) -> None:
    rows = [{"text": "word " * 40_000}, *ROWS]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    assert len(read(tmp_path / name, content)) == 3
    assert len(read(tmp_path / f"list-{name}", json.dumps(rows))) == 3


def test_lines_with_a_byte_order_mark(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.json", "a.txt"):
        assert len(read(tmp_path / name, "\ufeff" + LINES)) == 2


@pytest.mark.parametrize("first", ["{}", '{"title": "My book"}'])
def test_prose_after_an_object_is_prose(tmp_path: Path, first: str) -> None:
    assert "Prose" in " ".join(one.text for one in read(tmp_path / "a.txt", f"{first}\n\nProse goes on here.\n"))


def test_prose_that_begins_with_a_bracket_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def whole(path: Path) -> None:
        raise AssertionError(f"{path} was read whole")

    monkeypatch.setattr(forms, "whole_json", whole)
    for number, begin in enumerate(("[1] A reference. ", '["Quoted", he said] and went on. ', "{a: b} ")):
        assert read(tmp_path / f"{number}.txt", (begin + "Words. " * 20 + "\n\n") * 900)


def test_the_command_refuses_one_object_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('{"rows": [1]}\n')
    text = {"calibration": {"source": str(tmp_path / "rows.json")}}
    code, error, _ = compress(tmp_path, {"model": {"source": SMOLLM2}, "variants": [{"method": "gptq"}]} | text)
    assert (code, error.count("\n")) == (2, 1)
    assert "calibration." in error
