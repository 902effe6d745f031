"""A stand-in for the Hugging Face hub on loopback: serves a data set from a folder, records requests."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Handler(BaseHTTPRequestHandler):
    root: Path
    name: str
    asked: list[tuple[str, str, str]]

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.asked.append((self.command, path, self.headers.get("Authorization", "")))
        files = {file.relative_to(self.root).as_posix(): file for file in self.root.rglob("*") if file.is_file()}
        api, resolve = f"/api/datasets/{self.name}", f"/datasets/{self.name}/resolve/{COMMIT}/"
        if path in (api, f"{api}/revision/{COMMIT}"):
            self._json({"id": self.name, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]})
        elif path.startswith(f"{api}/tree/{COMMIT}"):
            self._tree(path.removeprefix(f"{api}/tree/{COMMIT}").strip("/"))
        elif path == f"{api}/paths-info/{COMMIT}":
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length).decode()
            wanted = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body).get("paths", [])
            self._json([entry for entry in map(self._entry, wanted) if entry])
        elif path.startswith(resolve) and path.removeprefix(resolve) in files:
            self._file(files[path.removeprefix(resolve)].read_bytes())
        else:
            known = path.startswith((api, f"/datasets/{self.name}/"))
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound" if known else "RepoNotFound"})

    do_HEAD = do_POST = do_GET

    def _entry(self, name: str) -> dict[str, Any] | None:
        place = self.root / name
        if not place.exists():
            return None
        kind = "file" if place.is_file() else "directory"
        return {"type": kind, "path": name, "size": place.stat().st_size if place.is_file() else 0, "oid": "0" * 40}

    def _tree(self, folder: str) -> None:
        place = self.root / folder
        if not place.is_dir():
            return self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        found = place.rglob("*") if "recursive=" in self.path.lower() else place.iterdir()
        return self._json([self._entry(item.relative_to(self.root).as_posix()) for item in sorted(found)])

    def _file(self, content: bytes) -> None:
        headers = {"ETag": '"stand-in"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        wanted = self.headers.get("Range", "").removeprefix("bytes=")
        if not wanted:
            return self._answer(200, content, headers)
        first, _, last = wanted.partition("-")
        begin, end = int(first), min(int(last or len(content) - 1), len(content) - 1)
        headers["Content-Range"] = f"bytes {begin}-{end}/{len(content)}"
        return self._answer(206, content[begin : end + 1], headers)

    def _json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def served(root: Path, name: str) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """Serve the data set `name` from a folder; yield the endpoint and the list of requests.

    A request is (method, path, authorization).
    """
    asked: list[tuple[str, str, str]] = []
    handler = type("Handler", (_Handler,), {"root": root, "name": name, "asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()
