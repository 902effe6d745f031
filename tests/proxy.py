"""A TCP proxy between a client and its store, which breaks connections in chosen ways."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit


@dataclass
class Fault:
    """What happens to answers once their request matches: `count` times."""

    matches: bytes
    """What the request's head must hold, such as `PUT /bucket/key`."""
    action: str
    """`reset`, `cut`, `stall` or `flip` after `after` bytes of the answer; `lose`: it arrives, the answer does not.

    In place of the server: `503`; `404`; `200` with `body`.
    """
    after: int = 0
    count: int = 1
    body: bytes = b""
    seen: int = field(default=0, init=False)


class Proxy:
    """Passes on to a server; understands just enough of HTTP to see where a request begins."""

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        self._server = (parts.hostname or "", parts.port or 80)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.sent_back = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(self._server) as server:
            current: list[Fault | None] = [None]
            done = threading.Event()
            answers = threading.Thread(target=self._answer, args=(client, server, current, done), daemon=True)
            answers.start()
            with suppress(OSError):
                while data := client.recv(1 << 16):
                    if data.split(b" ", 1)[0] in (b"GET", b"PUT", b"POST", b"HEAD", b"DELETE"):
                        current[0] = self._fault_of(data)
                        if current[0] and current[0].action in ("200", "404", "503"):
                            code = {"404": b"NoSuchKey", "503": b"SlowDown"}.get(current[0].action)
                            body = b"<Error><Code>%s</Code></Error>" % code if code else current[0].body
                            head = b"HTTP/1.1 %s It\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
                            client.sendall(head % (current[0].action.encode(), len(body)) + body)
                            break
                    server.sendall(data)
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
                server.shutdown(socket.SHUT_RDWR)
            done.set()

    def _fault_of(self, head: bytes) -> Fault | None:
        with self._lock:
            self.requests.append(head.split(b"\r\n", 1)[0].decode())
            for fault in self.faults:
                if fault.matches in head and fault.seen < fault.count:
                    fault.seen += 1
                    return fault
        return None

    def _answer(
        self, client: socket.socket, server: socket.socket, current: list[Fault | None], done: threading.Event
    ) -> None:
        passed, last = 0, None
        with suppress(OSError):
            while data := server.recv(1 << 16):
                fault = current[0]
                if fault is not last:
                    passed, last = 0, fault
                if data.startswith(b"HTTP/1.1 100"):
                    client.sendall(data)
                    continue
                if fault and passed + len(data) > fault.after:
                    if fault.action == "lose":
                        break
                    head = max(0, fault.after - passed)
                    if fault.action == "flip":
                        data = data[:head] + bytes([data[head] ^ 1]) + data[head + 1 :]
                        current[0] = last = None
                    else:
                        client.sendall(data[:head])
                        self.sent_back += head
                        if fault.action == "stall":
                            done.wait(60)
                        if fault.action == "reset":
                            _wait_until_read(client.getpeername()[1])
                            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                        break
                client.sendall(data)
                passed += len(data)
                self.sent_back += len(data)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
        client.close()


def _wait_until_read(port: int) -> None:
    """A reset throws away what its receiver has not read; a broken line loses only what is on it."""
    for _ in range(500):
        with Path("/proc/net/tcp").open() as lines:
            held = [fields for line in lines if int((fields := line.split())[1].partition(":")[2] or "0", 16) == port]
        if all(fields[4].endswith(":00000000") for fields in held):
            return
        time.sleep(0.01)


@contextmanager
def proxy(endpoint: str) -> Iterator[Proxy]:
    """Lend a proxy in front of a server."""
    lent = Proxy(endpoint)
    try:
        yield lent
    finally:
        lent.close()
