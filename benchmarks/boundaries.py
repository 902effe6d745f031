"""Opens a store that reports each of its boundaries, the moments at which its writer can be killed.

A boundary is the moment before or after a request (a bucket), or before a file is opened, linked, renamed or removed (a folder).
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from quantmill.s3.client import connect
from quantmill.store.folder import FolderObjects
from quantmill.store.s3 import S3Objects
from quantmill.store.store import Store
from tests.s3_server import s3_server

Boundary = Callable[[str], None]


@contextmanager
def lend_place(kind: str, folder: Path) -> Iterator[str]:
    """Yield the address of an empty store: in `folder`, or for `s3` in a bucket on a SeaweedFS of its own."""
    with s3_server(folder / "weed") if kind == "s3" else nullcontext() as server:
        if server is None:
            yield str(folder / "store")
        else:
            os.environ.update(server.environment)
            server.client().create_bucket(Bucket="bucket")
            yield "s3://bucket/chaos"


def open_place(place: str, boundary: Boundary | None = None) -> Store:
    """Return the store at an address; the store calls `boundary` at each boundary."""
    if "://" not in place:
        if boundary:
            _watch_files(place, boundary)
        return Store(FolderObjects(Path(place)))
    client = connect()
    if boundary:
        client.meta.events.register("before-send.s3", lambda event_name, **_: boundary(f"before {_of(event_name)}"))
        client.meta.events.register("after-call.s3", lambda model, **_: boundary(f"after {model.name}"))
    return Store(S3Objects("bucket", place.removeprefix("s3://bucket/"), client, single_bytes=1 << 20))


def _of(event_name: str) -> str:
    return event_name.rpartition(".")[2]


def _watch_files(place: str, boundary: Boundary) -> None:
    events = {"open", "os.link", "os.rename", "os.remove", "os.chmod", "os.utime"}

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in events and str(arguments[0]).startswith(place):
            kind = str(arguments[0]).removeprefix(place).strip("/").split("/")[0]
            boundary(f"before {event} in {kind}")

    sys.addaudithook(hook)
