"""Exports a folder as objects under a prefix of a bucket, through boto3.

boto3 uploads parts in parallel, and the server checks the SHA-256 of every part.
"""

from pathlib import Path
from typing import Any

from quantmill.errors import RequestError, StoreError
from quantmill.s3 import address
from quantmill.s3 import client as s3_client
from quantmill.s3.listing import pages


def place(target: str) -> tuple[str, str]:
    """Return the bucket and the prefix with a final slash; raise RequestError for a malformed target."""
    try:
        bucket, prefix = address.read(target)
    except ValueError as error:
        raise RequestError(f"{target}: {error}") from error
    if not prefix:
        raise RequestError(f"{target}: name a prefix, s3://bucket/prefix: an export replaces all objects below it")
    return bucket, f"{prefix}/"


def send(folder: Path, names: list[str], bucket: str, prefix: str, client: Any = None) -> str:
    """Upload the files in order, delete other objects of an earlier export, and return the address.

    boto3 reads credentials and endpoint from the environment, unless the caller gives a `client`.
    """
    target = f"{address.PREFIX}{bucket}/{prefix}"
    with s3_client.one_line(target):
        s3 = client or s3_client.connect()
        before = _under(s3, bucket, prefix)
        if before and names[-1] not in before:
            raise RequestError(f"{target}: holds {min(before)}, and no earlier export; name an empty prefix")
        s3.delete_object(Bucket=bucket, Key=prefix + names[-1])  # without its manifest, the export counts as incomplete
        for name in names:
            s3.upload_file(str(folder / name), bucket, prefix + name, ExtraArgs={"ChecksumAlgorithm": "SHA256"})
        for name in before.keys() - set(names):
            s3.delete_object(Bucket=bucket, Key=prefix + name)
        if _under(s3, bucket, prefix) != {name: (folder / name).stat().st_size for name in names}:
            raise StoreError(f"{target}: does not hold the files that were sent: somebody else writes to this prefix")
    return target


def _under(s3: Any, bucket: str, prefix: str) -> dict[str, int]:
    """Return name -> size in bytes for each object under the prefix."""
    found = (item for page in pages(s3, bucket, prefix) for item in page.get("Contents", ()))
    return {item["Key"].removeprefix(prefix): item["Size"] for item in found}
