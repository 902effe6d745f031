"""`s3://` through the real boto3, against as much of an object store as a download needs, on loopback."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

from quantmill.errors import DownloadError, NotCached, NotEnoughSpace, RequestError, SourceError
from quantmill.recipe.recipe import ModelRequest
from quantmill.settings import Settings
from quantmill.store.places import open_store
from tasks.sandbox.sandbox import Sandbox
from tasks.source import download, remote, snapshots
from tasks.source import places as sources
from tests.test_bad_input import CONFIG, ONE_WEIGHT, sharded_folder

SOURCE = "s3://bucket/models/tiny"
PARTS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


class Bucket:
    """One bucket named `bucket`: it lists and gives objects, and notes which it gave."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.given: list[str] = []
        self.changed_at = "2026-11-01T00:00:00.000Z"
        self.refuse, self.break_after = "", {}  # type: str, dict[str, int]
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))

    def put(self, folder: Path, prefix: str) -> None:
        self.objects |= {f"{prefix}/{path.name}": path.read_bytes() for path in folder.iterdir()}


def etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


def _handler_of(bucket: Bucket) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            _, name, key = (unquote(parts.path) + "/").split("/", 2)
            if bucket.refuse or name != "bucket":
                return self._send(
                    403 if bucket.refuse else 404,
                    f"<Error><Code>{bucket.refuse or 'NoSuchBucket'}</Code></Error>".encode(),
                )
            if not key.strip("/"):
                query = parse_qs(parts.query)
                return self._send(200, listing(query["prefix"][0], "delimiter" in query))
            key = key.strip("/")
            bucket.given.append(key.rpartition("/")[2])
            data = bucket.objects[key]
            if self.headers.get("If-Match", etag(data)) != etag(data):
                return self._send(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            return self._send(200, data, bucket.break_after.pop(key.rpartition("/")[2], None))

        def log_message(self, *_: object) -> None: ...

        def _send(self, status: int, body: bytes, cut: int | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", etag(body))
            self.end_headers()
            self.wfile.write(body[:cut])

    def listing(prefix: str, flat: bool) -> bytes:
        rows = [
            f"<Contents><Key>{escape(key)}</Key><Size>{len(data)}</Size><ETag>{escape(etag(data))}</ETag>"
            f"<LastModified>{bucket.changed_at}</LastModified></Contents>"
            for key, data in sorted(bucket.objects.items())
            if key.startswith(prefix) and not (flat and "/" in key.removeprefix(prefix))
        ]
        head = f"<Name>bucket</Name><KeyCount>{len(rows)}</KeyCount><IsTruncated>false</IsTruncated>"
        return f"<ListBucketResult>{head}{''.join(rows)}</ListBucketResult>".encode()

    return Handler


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bucket]:
    made = Bucket()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{made.server.server_address[1]}",
        "AWS_ACCESS_KEY_ID": "a-key",
        "AWS_SECRET_ACCESS_KEY": "a-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    threading.Thread(target=made.server.serve_forever, args=(0.05,), daemon=True).start()
    made.put(sharded_folder(tmp_path / "model"), "models/tiny")
    made.objects |= {"models/tiny/pytorch_model.bin": b"\x80\x04.", "models/tiny/extra.safetensors": ONE_WEIGHT}
    made.objects |= {"models/tiny/": b"", "models/tiny/onnx/config.json": b"{}", "models/tiny-2/config.json": b"{}"}
    yield made
    made.server.shutdown()
    made.server.server_close()


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
    with pytest.raises(
        DownloadError, match=f"^model.source: {SOURCE}: {PARTS[1]}: the store.* does not answer, or broke"
    ):
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
    with pytest.raises(SourceError, match=r"tokenizer\.json is another than when the run began"):
        again.fetch(origin)


def test_a_revision_is_the_start_of_the_digest(bucket: Bucket, tmp_path: Path) -> None:
    digest = sources.open_source(ModelRequest(source=SOURCE), tmp_path).inspect().digest
    right = ModelRequest(source=SOURCE, revision=digest[:12])
    assert sources.open_source(right, tmp_path).inspect().digest == digest
    with pytest.raises(RequestError, match=f"^model.revision: main: the source's digest is {digest}$"):
        sources.open_source(ModelRequest(source=SOURCE, revision="main"), tmp_path).inspect()


@pytest.mark.parametrize(
    ("key", "data", "words"),
    [
        ("models/tiny/a\\..\\b.json", b"{}", "not a plain relative path"),
        ("models/tiny/..", b"{}", "not a plain relative path"),
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
    with pytest.raises(SourceError, match=r"^model\.source: config\.json: holds auto_map, which names code to run$"):
        sources.open_source(ModelRequest(source=SOURCE), tmp_path).inspect()
    assert not set(PARTS) & set(bucket.given)


@pytest.mark.parametrize(
    ("source", "refuse", "error", "words"),
    [
        (SOURCE, "AccessDenied", SourceError, "the store refuses (AccessDenied)"),
        (SOURCE, "SlowDown", DownloadError, "the store answered SlowDown"),
        ("s3://another/models", "", SourceError, "is not there (NoSuchBucket)"),
        ("s3://bucket/nothing", "", SourceError, "nothing lies there"),
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
