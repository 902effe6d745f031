"""A folder of files -> objects under a prefix, through boto3: in parallel, the server checks the SHA-256 of every part."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quantmill.errors import RequestError, StoreError
from quantmill.s3 import client as s3_client
from quantmill.s3.listing import pages


def place(target: str) -> tuple[str, str]:
    """Return the bucket and the prefix, with its slash, of `s3://bucket/prefix`; RequestError where it is not one."""
    bucket, _, path = target.removeprefix("s3://").partition("/")
    prefix = f"{path.strip('/')}/"
    if not bucket or prefix == "/" or ".." in prefix.split("/"):
        raise RequestError(f"{target}: write it as s3://bucket/prefix")
    return bucket, prefix


def send(folder: Path, names: list[str], bucket: str, prefix: str, client: Any = None) -> str:
    """Upload the files, the last of the names last, drop what an earlier export left, and return where they lie.

    Whose keys and which endpoint are boto3's own matters; `client` is made from the environment where none is given.
    """
    target = f"s3://{bucket}/{prefix}"
    with _one_line(target):
        import boto3

        s3 = client or boto3.client("s3")
        before = _under(s3, bucket, prefix)
        if before and names[-1] not in before:
            raise RequestError(f"{target}: holds {min(before)}, and no earlier export; name an empty prefix")
        s3.delete_object(Bucket=bucket, Key=prefix + names[-1])  # not whole from here on
        for name in names:
            s3.upload_file(str(folder / name), bucket, prefix + name, ExtraArgs={"ChecksumAlgorithm": "SHA256"})
        for name in before.keys() - set(names):
            s3.delete_object(Bucket=bucket, Key=prefix + name)
        if _under(s3, bucket, prefix) != {name: (folder / name).stat().st_size for name in names}:
            raise StoreError(f"{target}: does not hold what was sent: somebody else writes there")
    return target


def _under(s3: Any, bucket: str, prefix: str) -> dict[str, int]:
    """Return name -> bytes of what lies under the prefix."""
    found = (item for page in pages(s3, bucket, prefix) for item in page.get("Contents", ()))
    return {item["Key"].removeprefix(prefix): item["Size"] for item in found}


@contextmanager
def _one_line(target: str) -> Iterator[None]:
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (Boto3Error, BotoCoreError, ClientError) as error:
        code = error.response["Error"]["Code"] if isinstance(error, ClientError) else type(error).__name__
        words = f"the bucket{s3_client.host_of(error)} refuses, or broke off ({code}); the same command goes on"
        raise StoreError(f"{target}: {s3_client.cause_of(code) or words}") from error
