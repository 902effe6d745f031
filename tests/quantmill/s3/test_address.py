"""One grammar of `s3://bucket/prefix`: all callers take the same addresses and refuse others alike."""

from pathlib import Path

import pytest

from quantmill.errors import QuantmillError, RequestError, SettingsError, SourceError
from quantmill.recipe.recipe import ModelRequest
from quantmill.s3 import address
from quantmill.settings import load_settings
from quantmill.store.places import open_store
from tasks.landing.watchlist import WatchEntry
from tasks.publish import export_s3
from tasks.source import places

TAKEN = [
    ("s3://bucket", "bucket", ""),
    ("s3://bucket/", "bucket", ""),
    ("s3://bucket/prefix", "bucket", "prefix"),
    ("s3://bucket/a/b/", "bucket", "a/b"),
    ("s3://bucket//a", "bucket", "a"),
    ("s3://bucket/con/x", "bucket", "con/x"),
    ("s3://bucket/a b:c*d.", "bucket", "a b:c*d."),
    ("s3://bucket/..a/b..", "bucket", "..a/b.."),
    ("s3://B_ad/x", "B_ad", "x"),
    ("s3://my.bucket-1/x", "my.bucket-1", "x"),
]
REFUSED = [
    "s3://",
    "s3:///x",
    "s3://ab/x",
    "s3://-bucket/x",
    "s3://B?d/x",
    "s3://b d/x",
    "s3://key:secret@bucket/x",
    "s3://bucket/../x",
    "s3://bucket/a/./x",
    "s3://bucket/a\x7fb",
    f"s3://{'b' * 256}/x",
]


@pytest.mark.parametrize(("uri", "bucket", "prefix"), TAKEN)
def test_every_caller_takes_it(
    uri: str, bucket: str, prefix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert address.read(uri) == (bucket, prefix)
    places.open_source(ModelRequest(source=uri), tmp_path)
    assert open_store(uri).uri == f"s3://{bucket}/{prefix}".rstrip("/")
    monkeypatch.setenv("QUANTMILL_STORE", uri)
    assert load_settings().store_uri == uri
    if prefix:
        assert export_s3.place(uri) == (bucket, f"{prefix}/")


@pytest.mark.parametrize("uri", REFUSED)
def test_no_caller_takes_it_and_all_name_the_rule(uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QUANTMILL_STORE", uri)
    callers: list[tuple[type[QuantmillError], object]] = [
        (SourceError, lambda: places.open_source(ModelRequest(source=uri), tmp_path)),
        (SettingsError, lambda: open_store(uri)),
        (SettingsError, load_settings),
        (RequestError, lambda: export_s3.place(uri)),
    ]
    for error, call in callers:
        with pytest.raises(error) as raised:
            call()  # type: ignore[operator]
        assert address.RULE.lower() in str(raised.value).lower()
        assert "\n" not in str(raised.value)


def test_an_export_needs_a_prefix() -> None:
    with pytest.raises(RequestError, match=r"^s3://bucket: name a prefix"):
        export_s3.place("s3://bucket")


def test_a_store_writes_its_prefix_in_one_form_of_unicode_and_a_source_is_read_as_it_is_written() -> None:
    assert open_store("s3://bucket/e\u0301").uri == open_store("s3://bucket/\xe9").uri == "s3://bucket/\xe9"
    assert address.read("s3://bucket/e\u0301").prefix == "e\u0301"


@pytest.mark.parametrize(
    ("source", "taken"), [("s3://bucket/*", True), ("s3://bucket/con/x/*", True), ("s3://b/x/*", False)]
)
def test_a_watch_list_has_the_same_grammar(source: str, taken: bool) -> None:
    asked = {"source": source, "recipe": Path(__file__)}
    if taken:
        assert WatchEntry.model_validate(asked).scheme.prefix == address.PREFIX
        return
    with pytest.raises(ValueError, match="write it as s3://bucket/prefix/pattern"):
        WatchEntry.model_validate(asked)
