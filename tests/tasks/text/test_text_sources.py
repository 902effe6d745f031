"""Documents from files: what is read, what is refused and where, and the side of each document.

Also how far a file is read.
"""

import gzip
import json
import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantmill.errors import TextError
from quantmill.recipe.texts import TextSource
from tasks.text import sources as text_sources
from tasks.text.rows import Document
from tasks.text.sources import Role

ROLES: tuple[Role, ...] = ("calibration", "evaluation")
TALK = [{"role": "user", "content": "What is 12 + 30?"}, {"role": "assistant", "content": "It is 42."}]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows in the format that the file's name says; a text file gets their texts as paragraphs."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
    else:
        path.write_text(text if path.suffix.lower() == ".jsonl" else "\n\n".join(row["text"] for row in rows))
    return path


def taken(path: Path, role: Role, **fields: Any) -> list[Document]:
    return text_sources.take(TextSource(source=str(path), **fields), role, 100, f"{role}.")


def both(path: Path, **fields: Any) -> list[Document]:
    return [document for role in ROLES for document in taken(path, role, **fields)]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.parquet", "ROWS.JSONL"])
@pytest.mark.parametrize(
    ("rows", "field"),
    [
        ([{"id": 1, "text": "One row."}, {"id": 2, "text": None}, {"id": 3, "text": " \n "}], ""),
        ([{"id": 1, "text": "no", "body": "One row."}], "body"),
    ],
)
def test_rows_of_text(tmp_path: Path, name: str, rows: list[dict[str, Any]], field: str) -> None:
    assert both(write(tmp_path / name, rows), field=field) == [Document("One row.", "One row.")]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.parquet"])
@pytest.mark.parametrize("field", ["messages", "talk"])
def test_rows_of_messages(tmp_path: Path, name: str, field: str) -> None:
    named = "" if field == "messages" else field
    (found,) = both(write(tmp_path / name, [{"n": 1, field: TALK}]), field=named)
    assert found == Document("What is 12 + 30? It is 42.", "", tuple(TALK))


@pytest.mark.parametrize(
    ("name", "content", "fields", "message"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": ', {}, r"c.source: a.jsonl: line 2: not JSON: "),
        ("a.jsonl", b'{"text": "a"}\n\n[1]\n', {}, r"c.source: a.jsonl: line 3: a row is a JSON object, this is list"),
        ("a.jsonl", b"[" * 100_000, {}, r"c.source: a.jsonl: line 1: not JSON"),
        ("a.jsonl", b"1" * 5000, {}, r"c.source: a.jsonl: line 1: not JSON"),
        ("a.jsonl", b'{"text": "a\xff"}\n', {}, r"c.source: a.jsonl: not UTF-8 \(byte 11\)"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', {}, r"line 1, text: half a surrogate pair at character 0"),
        ("a.jsonl", b'{"a\\nb": 1, "c": 2}\n', {}, r"c.field: a.jsonl has neither text nor messages; .*: a b, c$"),
        ("a.jsonl", b'{"a": 1}\n', {"field": "b"}, r"c.field: a.jsonl: line 1 has no field 'b'; its fields: a$"),
        ("a.jsonl", b'{"text": "a"}\n{"a": 1}\n', {}, r"c.field: a.jsonl: line 2 has no field 'text'; its fields: a$"),
        ("a.jsonl", b'{"text": 5}\n', {}, r"c.source: a.jsonl: line 1, text: must be text or a list of messages, is int"),
        ("a.jsonl", b'{"messages": [{"role": "user"}]}\n', {}, r"line 1, messages: message 1 needs role and content"),
        ("a.jsonl", b'{"messages": [{"role": 1, "content": "x"}]}\n', {}, r"message 1 needs role and content, both text; role"),
        ("a.jsonl", b'{"messages": ["hello"]}\n', {}, r"message 1 needs role and content"),
        ("a.jsonl", b'{"messages": [{"role": "user", "content": [{"type": "image"}]}]}\n', {}, r"message 1 .*; content"),
        ("a.jsonl.gz", b"not packed", {}, r"c.source: a.jsonl.gz: cannot be read: not a gzipped file"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 99, mtime=0)[:-20], {}, r"c.source: a.jsonl.gz: cannot be read: "),
        ("a.parquet", b"not a table", {}, r"c.source: a.parquet: not a Parquet file: "),
        ("a.parquet", b"", {}, r"c.source: a.parquet: not a Parquet file: "),
        ("a.txt", b"x" * ((16 << 20) + 1), {}, r"c.source: a.txt: line 1 is longer than 16 MiB"),
        ("a.txt", None, {}, r"c.source: .*a.txt: no such file or directory"),
    ],
)  # fmt: skip
def test_what_is_refused(
    tmp_path: Path, name: str, content: bytes | None, fields: dict[str, str], message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(TextError) as raised:
        text_sources.take(TextSource(source=str(tmp_path / name), **fields), "calibration", 1 << 30, "c.")
    assert re.search("^" + message if message.startswith("c.") else message, str(raised.value))
    assert "\n" not in str(raised.value)


def test_what_is_refused_in_parquet(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [{"a": 1, "n": 2}])
    for fields, message in (
        ({}, r"^calibration\.field: a\.parquet has neither text nor messages; name one of its fields: a, n$"),
        ({"field": "b"}, r"^calibration\.field: a\.parquet has no field 'b'; its fields: a, n$"),
        ({"field": "n"}, r"^calibration\.source: a\.parquet: row 1, n: must be text or a list of messages, is int$"),
    ):
        with pytest.raises(TextError, match=message):
            taken(tmp_path / "a.parquet", "calibration", **fields)


def test_a_folder_and_a_name_too_long_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").mkdir()
    for source, message in ((str(tmp_path / "a.jsonl"), "not a plain file"), ("x" * 4000, "file name too long")):
        with pytest.raises(TextError, match=message) as raised:
            text_sources.take(TextSource(source=source), "calibration", 1, "calibration.")
        assert len(str(raised.value)) < 200


def test_a_packed_file_that_unfolds_beyond_measure_is_refused(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.jsonl.gz", "wb", compresslevel=9) as file:
        for _ in range(80):
            file.write((b'{"text": "a"}' + b" " * 1000 + b"\n") * 1024)
    with pytest.raises(TextError, match=r"a\.jsonl\.gz: unpacks to more than 100 times its size"):
        taken(tmp_path / "a.jsonl.gz", "calibration")


_WORDS = st.text(alphabet="ab \t\r\n\x0b\x0c.\u2028é", max_size=60)
_DOCUMENTS = st.lists(st.text(alphabet="abcdé \t", min_size=1, max_size=30).filter(str.strip), min_size=1, max_size=30)


@settings(max_examples=400, deadline=None)
@given(_WORDS)
def test_paragraphs_are_what_blank_lines_part(text: str) -> None:
    """Cutting line by line equals the pattern on the whole text, which cut the built-in text at first."""
    wanted = []
    for block in re.split(r"\n[ \t\r]*\n", text):
        if block.strip():
            wanted.append("\n".join(block.splitlines()).strip("\n"))
    assert [found.text for found in text_sources.paragraphs(text.split("\n"))] == wanted


def test_a_long_stretch_is_cut_at_line_ends() -> None:
    found = list(text_sources.paragraphs(["x" * 999] * 7 + ["", "y"]))
    assert [len(document.text) for document in found] == [2999, 2999, 999, 1]


@settings(max_examples=60, deadline=None)
@given(
    _DOCUMENTS, _DOCUMENTS, st.sampled_from(["jsonl", "jsonl.gz", "parquet", "txt"]), st.sampled_from(["jsonl", "txt"])
)
def test_no_document_is_on_both_sides_whatever_the_files(
    tmp_path_factory: pytest.TempPathFactory, one: list[str], other: list[str], first: str, second: str
) -> None:
    """Two files share paragraphs at other places and with other indents; no paragraph is on both sides."""
    folder = tmp_path_factory.mktemp("files")
    shared = [f"  {' '.join(text.split())} " for text in one]
    a = write(folder / f"a.{first}", [{"text": text} for text in one])
    b = write(folder / f"b.{second}", [{"text": text} for text in [*other, *shared, *shared]])
    seen, measured = taken(a, "calibration"), taken(b, "evaluation")
    assert not {document.words for document in seen} & {document.words for document in measured}
    whole = [document.words for document in both(b)]
    assert sorted(whole) == sorted({" ".join(text.split()) for text in [*one, *other]}), "each once, none lost"


def test_a_message_and_a_row_and_a_paragraph_of_the_same_words_fall_on_one_side(tmp_path: Path) -> None:
    for number in range(20):
        words = f"Question {number}: what is it?"
        talk = [{"role": "user", "content": f" {words}\n"}]
        files = [
            write(tmp_path / "a.jsonl", [{"messages": talk}]),
            write(tmp_path / "b.jsonl", [{"text": words}]),
            write(tmp_path / "c.txt", [{"text": words.replace(" ", "\n  ")}]),
        ]
        sides = {role for path in files for role in ROLES if taken(path, role)}
        assert len(sides) == 1


@pytest.mark.slow
def test_reading_ends_when_enough_was_seen(tmp_path: Path) -> None:
    """What lies behind is not even looked at, and memory depends on what is asked for, not on the file."""
    path = tmp_path / "large.jsonl"
    with path.open("w") as file:
        for number in range(60_000):
            file.write(json.dumps({"text": f"Row {number} says {'word ' * 30}{number * number}."}) + "\n")
        file.write("this is no JSON\n")
    tracemalloc.start()
    found = taken(path, "calibration")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 4 << 20 <= sum(len(document.words) for document in found) < 5 << 20
    assert peak < 40 << 20
    with pytest.raises(TextError, match="line 60001: not JSON"):
        text_sources.take(TextSource(source=str(path)), "calibration", 1 << 30, "calibration.")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "home"


def test_a_large_file_is_hashed_once(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from quantmill.files import keys

    monkeypatch.setattr(text_sources, "_HASHED_AT_ONCE", 10)
    path, hashed = write(tmp_path / "a.jsonl", [{"text": "A first text."}]), []
    real = keys.file_sha256
    monkeypatch.setattr(keys, "file_sha256", lambda place: hashed.append(place) or real(place))
    source = TextSource(source=str(path))
    first, again = (text_sources.identity(source, "c.", home) for _ in range(2))
    assert (first, len(hashed)) == (again, 1)
    write(path, [{"text": "A newer text."}])
    assert text_sources.identity(source, "c.", home) != first
    assert len(hashed) == 2
