"""The part of an object store that a download needs, on loopback."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

from tests.model_folders import ONE_WEIGHT, sharded_folder


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
