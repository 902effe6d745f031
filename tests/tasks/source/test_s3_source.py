"""`s3://` through the real boto3, against the part of an object store that a download needs."""

import json
import re
from pathlib import Path

import pytest

from quantmill.errors import DownloadError, NotCached, NotEnoughSpace, RequestError, SourceError
from quantmill.recipe.recipe import ModelRequest
from quantmill.settings import Settings
from quantmill.store.places import open_store
from tasks.sandbox.sandbox import Sandbox
from tasks.source import download, remote, snapshots
from tasks.source import places as sources
from tests.bucket import Bucket
from tests.model_folders import CONFIG

SOURCE = "s3://bucket/models/tiny"
PARTS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def test_a_prefix_becomes_a_snapshot_that_can_be_made_again(bucket: Bucket, tmp_path: Path) -> None:
    import shutil

    request, home = ModelRequest(source=SOURCE), tmp_path / "home"
    seen = download.preview_source(request, home)
    assert (seen.architecture.hidden_size, set(bucket.given)) == (
        CONFIG["hidden_size"],
        {"config.json", "model.safetensors.index.json"},
    )
    assert not home.exists(), "a preview leaves nothing"
    home.mkdir()
    with pytest.raises(NotCached):
        download.inspect_source(request, home, fetch=False)
    origin = download.inspect_source(request, home)
    assert origin.size_bytes == seen.size_bytes == origin.download_bytes
    assert [file.path for file in origin.files] == [
        "config.json", *PARTS, "model.safetensors.index.json", "tokenizer.json",
    ]  # fmt: skip
    assert not {"pytorch_model.bin", "extra.safetensors"} & set(bucket.given)
    bucket.given.clear()
    sandbox, store = Sandbox(Settings(home=home)), open_store(home / "store")
    snapshot = download.fetch_snapshot(origin, store, sandbox)
    assert download.inspect_source(request, home, fetch=False) == origin, "it is remembered by its listing"
    assert (snapshot.parameters, bucket.given) == (12, [])
    shutil.rmtree(home / "snapshots")
    shutil.rmtree(home / "fetched")
    assert snapshots.local_folder(snapshot, sandbox).is_dir()
    assert sorted(bucket.given) == sorted(file.path for file in origin.files)


def test_finished_files_are_kept_and_changed_ones_fetched_again(bucket: Bucket, tmp_path: Path) -> None:
    source, home = sources.open_source(ModelRequest(source=SOURCE), tmp_path / "home"), tmp_path / "home"
    bucket.break_after = {PARTS[1]: 20}
    with pytest.raises(DownloadError, match=f"^{SOURCE}: {PARTS[1]}: the store.* does not answer, or broke"):
        source.inspect()
    bucket.given.clear()
    origin = source.inspect()
    assert bucket.given == [PARTS[1]]
    damaged = next((home / "fetched").glob(f"*/{PARTS[0]}"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    bucket.given.clear()
    assert source.fetch(origin) == damaged.parent
    assert bucket.given == [PARTS[0]], "bytes that are not those of the digest are fetched again"
    bucket.objects["models/tiny/tokenizer.json"] += b"\n"
    again = sources.open_source(ModelRequest(source=SOURCE), home)
    bucket.given.clear()
    assert again.inspect().digest != origin.digest
    assert bucket.given == ["tokenizer.json"]
    with pytest.raises(SourceError, match=r"tokenizer\.json has changed since the run began"):
        again.fetch(origin)


def test_a_revision_is_the_start_of_the_digest(bucket: Bucket, tmp_path: Path) -> None:
    digest = sources.open_source(ModelRequest(source=SOURCE), tmp_path).inspect().digest
    right = ModelRequest(source=SOURCE, revision=digest[:12])
    assert sources.open_source(right, tmp_path).inspect().digest == digest
    with pytest.raises(RequestError, match=f"^main: the source's digest is {digest}$"):
        sources.open_source(ModelRequest(source=SOURCE, revision="main"), tmp_path).inspect()


@pytest.mark.parametrize(
    ("key", "data", "words"),
    [
        ("models/tiny/config.json", b'{"architectures": ["BertModel"]}', "BertModel: a causal language model"),
        ("models/tiny/model.safetensors.index.json", b'{"weight_map": {"a": "../../a.safetensors"}}', "not a plain relative"),
        ("models/tiny/model.safetensors.index.json", b'{"weight_map": {"a": "b.safetensors"}}', "'b.safetensors' is not there"),
    ],
)  # fmt: skip
def test_what_is_refused_before_its_weights(bucket: Bucket, tmp_path: Path, key: str, data: bytes, words: str) -> None:
    bucket.objects[key] = data
    with pytest.raises(SourceError, match=r"^model\.source: ") as raised:
        download.preview_source(ModelRequest(source=SOURCE), tmp_path / "home")
    assert words in str(raised.value)
    assert not set(PARTS) & set(bucket.given)


def test_code_in_a_finished_checkpoint_is_refused_before_its_weights(bucket: Bucket, tmp_path: Path) -> None:
    config = json.loads(bucket.objects["models/tiny/config.json"])
    packed = {"quantization_config": {"quant_method": "gptq", "bits": 4}, "auto_map": {"AutoModel": "x.Y"}}
    bucket.objects["models/tiny/config.json"] = json.dumps(config | packed).encode()
    with pytest.raises(SourceError, match=r"^config\.json: holds auto_map, which names code to run$"):
        sources.open_source(ModelRequest(source=SOURCE), tmp_path).inspect()
    assert not set(PARTS) & set(bucket.given)


@pytest.mark.parametrize(
    ("source", "refuse", "error", "words"),
    [
        (SOURCE, "AccessDenied", SourceError, "the store refuses (AccessDenied)"),
        (SOURCE, "SlowDown", DownloadError, "the store answered SlowDown"),
        ("s3://another/models", "", SourceError, "no such bucket (NoSuchBucket)"),
        ("s3://bucket/nothing", "", SourceError, "no file has this prefix"),
        ("s3://B?d/x", "", SourceError, "write it as s3://bucket/prefix"),
        ("s3://bucket/models/../x", "", SourceError, "write it as s3://bucket/prefix"),
    ],
)
def test_what_goes_wrong_is_one_line(
    bucket: Bucket, tmp_path: Path, source: str, refuse: str, error: type[Exception], words: str
) -> None:
    bucket.refuse = refuse
    with pytest.raises(error, match=f"^model.source: {re.escape(source)}: ") as raised:
        download.preview_source(ModelRequest(source=source), tmp_path / "home")
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_without_credentials_and_without_a_server(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"the store at 127\.0\.0\.1:9 does not answer"):
        download.preview_source(ModelRequest(source=SOURCE), tmp_path)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(SourceError, match="no credentials"):
        download.preview_source(ModelRequest(source=SOURCE), tmp_path)


def test_no_room_for_the_download(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil
    from types import SimpleNamespace

    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    with pytest.raises(NotEnoughSpace, match="the download needs"):
        remote.require_room(tmp_path / "not" / "there", 10**6)
