"""A model hub on loopback, with the parts that `huggingface_hub` needs for a download or a commit.

    with HubServer() as hub:
        hub.commit("org/name", {"config.json": b"{}", "model.safetensors": weights})
        ...  # a process with HF_ENDPOINT=hub.url
        assert hub.requests

Commits are taken from the token `writer`. Files ending in .safetensors, .gguf or .bin are "large": the hub states their
sha256, as for Git LFS. Other files have git's blob digest. The real hub's storage (Xet, signed URLs of a CDN) is left out.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

_LARGE = (".safetensors", ".gguf", ".bin")


@dataclass
class Repo:
    """One model repository."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    tokens: set[str] | None = None
    """The tokens that may read a gated model's files; None: no token is needed."""
    modified_at: str = "2026-11-01T00:00:00.000Z"
    """When it changed last, as the hub lists it."""


@dataclass(frozen=True)
class Seen:
    """One request that was answered."""

    method: str
    path: str
    range: str
    authorization: str


class HubServer:
    """The hub; start it with `with`."""

    def __init__(self) -> None:
        """Take a free port of loopback; nothing is served yet."""
        self.repos: dict[str, Repo] = {}
        self.requests: list[Seen] = []
        self.bytes_sent = 0
        self.writer = "writer"
        self.private: set[str] = set()
        self.uploaded: dict[str, bytes] = {}
        self._cuts: dict[str, list[int]] = {}
        self._swapped: dict[str, bytes] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """The address for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        """Begin to answer."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop; the port refuses connections from now on."""
        self._server.shutdown()
        self._server.server_close()

    def commit(self, repo: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Make `files` the whole content of a branch, and return the new commit."""
        held = self.repos.setdefault(repo, Repo())
        content = b"".join(
            name.encode() + b"\0" + hashlib.sha256(data).digest() for name, data in sorted(files.items())
        )
        made = hashlib.sha1(content + str(len(held.commits)).encode()).hexdigest()
        held.commits[made] = dict(files)
        held.refs[branch] = made
        return made

    def gate(self, repo: str, *tokens: str) -> None:
        """Let only these tokens read the files of a model; its listing stays public, as on the real hub."""
        self.repos[repo].tokens = set(tokens)

    def cut(self, name: str, *after_bytes: int) -> None:
        """Break the next answers with a file, each after the given number of bytes of its body."""
        self._cuts.setdefault(name, []).extend(after_bytes)

    def swap(self, name: str, data: bytes | None) -> None:
        """Serve other bytes for a file than its digest says; None: the right ones again."""
        if data is None:
            self._swapped.pop(name, None)
        else:
            self._swapped[name] = data

    def fetched(self, name: str) -> list[Seen]:
        """Return the requests for the bytes of a file, oldest first."""
        return [seen for seen in self.requests if seen.method == "GET" and seen.path.endswith(f"/{name}")]

    def body_of(self, name: str, data: bytes) -> bytes:
        """Return what is served as a file's bytes."""
        return self._swapped.get(name, data)

    def next_cut(self, name: str) -> int | None:
        """Return the number of bytes after which this answer breaks, or None."""
        waiting = self._cuts.get(name)
        return waiting.pop(0) if waiting else None


def digest_of(name: str, data: bytes) -> tuple[str, str]:
    """Return git's digest of a file, and its sha256 where the hub states one (else empty)."""
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    return blob, hashlib.sha256(data).hexdigest() if name.endswith(_LARGE) else ""


def _sibling(name: str, data: bytes) -> dict[str, object]:
    blob, sha256 = digest_of(name, data)
    lfs = {"lfs": {"size": len(data), "sha256": sha256, "pointerSize": 134}} if sha256 else {}
    return {"rfilename": name, "size": len(data), "blobId": blob, **lfs}


def _handler_of(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer()

        def do_HEAD(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._take()

        def do_PUT(self) -> None:
            self._take()

        def _take(self) -> None:
            """Play what a commit needs: the repository, how each file is sent, large ones, the commit."""
            path = unquote(urlsplit(self.path).path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            hub.requests.append(Seen(self.command, path, "", self.headers.get("Authorization", "")))
            if stored := re.fullmatch(r"/upload/([0-9a-f]{64})", path):
                hub.uploaded[stored[1]] = body
                return self._json({})
            if self.headers.get("Authorization") != f"Bearer {hub.writer}":
                return self._refuse(401, "")
            asked = [json.loads(line) for line in body.splitlines() if line]
            if path == "/api/repos/create":
                return self._create(asked[0])
            if path == "/api/validate-yaml":
                return self._json({"errors": [], "warnings": []})
            if re.fullmatch(r"/api/models/[^/]+/[^/]+/preupload/main", path):
                modes = [
                    {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(_LARGE) else "regular"}
                    for f in asked[0]["files"]
                ]
                return self._json({"files": [mode | {"shouldIgnore": False} for mode in modes]})
            if path.endswith(".git/info/lfs/objects/batch"):
                return self._json({"transfer": "basic", "objects": [self._action(o) for o in asked[0]["objects"]]})
            if commit := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
                return self._commit(commit[1], asked)
            return self._refuse(404, "EntryNotFound")

        def _create(self, asked: dict[str, str]) -> None:
            name = f"{asked['organization']}/{asked['name']}"
            if name in hub.repos:
                return self._json({"url": f"{hub.url}/{name}"}, 409)
            if asked.get("visibility") == "private":
                hub.private.add(name)
            hub.commit(name, {".gitattributes": b"*.gguf filter=lfs\n"})
            return self._json({"url": f"{hub.url}/{name}"})

        def _action(self, wanted: dict[str, object]) -> dict[str, object]:
            upload = {"href": f"{hub.url}/upload/{wanted['oid']}", "header": {}}
            return wanted | {"actions": {"upload": upload}}

        def _commit(self, name: str, lines: list[dict[str, dict[str, str]]]) -> None:
            repo = hub.repos[name]
            files = dict(repo.commits[repo.refs["main"]])
            for line in lines:
                kind, value = str(line["key"]), line["value"]
                if kind == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif kind == "lfsFile":
                    files[value["path"]] = hub.uploaded[value["oid"]]
                elif kind == "deletedFile":
                    del files[value["path"]]
            made = hub.commit(name, files)
            self._json({"commitUrl": f"{hub.url}/{name}/commit/{made}", "commitOid": made, "success": True})

        def _json(self, document: object, status: int = 200) -> None:
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Say nothing: tests read `requests`."""

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            header = self.headers.get
            hub.requests.append(Seen(self.command, path, header("Range", ""), header("Authorization", "")))
            if path == "/api/models":
                self._list_models(parse_qs(urlsplit(self.path).query))
            elif listing := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/revision/(.+))?", path):
                self._list(listing[1], listing[2] or "main")
            elif file := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self._send_file(file[1], file[2], file[3])
            else:
                self._refuse(404, "EntryNotFound")

        def _found(self, name: str, revision: str) -> tuple[Repo, str] | None:
            repo = hub.repos.get(name)
            if repo is None:
                return self._refuse(401, "RepoNotFound")
            commit = repo.refs.get(revision, revision)
            return (repo, commit) if commit in repo.commits else self._refuse(404, "RevisionNotFound")

        def _list(self, name: str, revision: str) -> None:
            if found := self._found(name, revision):
                repo, commit = found
                siblings = [_sibling(file, data) for file, data in sorted(repo.commits[commit].items())]
                document = {
                    "_id": "0", "id": name, "modelId": name, "sha": commit, "private": False, "siblings": siblings,
                    "gated": "manual" if repo.tokens is not None else False, "tags": ["license:apache-2.0"],
                }  # fmt: skip
                self._send(json.dumps(document).encode(), {"Content-Type": "application/json"})

        def _list_models(self, query: dict[str, list[str]]) -> None:
            """One page of two models after the other, as the real hub gives pages of a thousand."""
            author, after = query["author"][0], int(query.get("cursor", ["0"])[0])
            names = sorted(name for name in hub.repos if name.startswith(f"{author}/"))
            made = [
                {
                    "_id": "0", "id": name, "modelId": name, "sha": hub.repos[name].refs["main"], "private": False,
                    "lastModified": hub.repos[name].modified_at, "tags": [],
                }
                for name in names[after : after + 2]
            ]  # fmt: skip
            headers = {"Content-Type": "application/json"}
            if names[after + 2 :]:
                address = f"{hub.url}/api/models?author={author}&full=True&cursor={after + 2}"
                headers["Link"] = f'<{address}>; rel="next"'
            self._send(json.dumps(made).encode(), headers)

        def _send_file(self, name: str, revision: str, file: str) -> None:
            if not (found := self._found(name, revision)):
                return
            repo, commit = found
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if repo.tokens is not None and token not in repo.tokens:
                self._refuse(403 if token else 401, "GatedRepo")
            elif (data := repo.commits[commit].get(file)) is None:
                self._refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
            else:
                blob, sha256 = digest_of(file, data)
                headers = {"X-Repo-Commit": commit, "ETag": f'"{sha256 or blob}"', "Accept-Ranges": "bytes"}
                self._send(hub.body_of(file, data), headers, file)

        def _send(self, body: bytes, headers: dict[str, str], file: str = "") -> None:
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            start = int(wanted[1]) if wanted else 0
            self.send_response(206 if wanted else 200)
            if wanted:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            if self.command == "HEAD":
                return
            cut = hub.next_cut(file) if file else None
            part = body[start:] if cut is None else body[start : start + cut]
            self.wfile.write(part)
            hub.bytes_sent += len(part)
            if cut is not None:
                self.close_connection = True

        def _refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in {"X-Error-Code": code, "X-Error-Message": code, **(headers or {})}.items():
                self.send_header(key, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

    return Handler
