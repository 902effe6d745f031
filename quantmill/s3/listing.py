"""Listings of a bucket that are listings: what answers 200 to everything, such as a proxy's page, is refused."""

from collections.abc import Iterator
from typing import Any

from quantmill.errors import StoreError


def pages(client: Any, bucket: str, prefix: str, **more: Any) -> Iterator[dict[str, Any]]:
    """Yield the pages of a bucket's listing under a prefix, a thousand objects each; `more` is for `list_objects_v2`.

    An empty listing counts as such only where the answer says so itself: it names the bucket and counts what it holds.

    Raises:
        StoreError: an answer is no listing, is cut short, or holds what was not asked for.
    """
    from botocore.parsers import ResponseParserError

    try:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, **more):
            held = [*page.get("Contents", ()), *page.get("CommonPrefixes", ())]
            names = [str(entry.get("Key", entry.get("Prefix", ""))) for entry in held]
            ends = page.get("IsTruncated") is False or bool(page.get("NextContinuationToken"))
            whole = page.get("Name") and page.get("KeyCount") == len(held) and ends
            if not whole or not all(name.startswith(prefix) for name in names):
                raise _no_listing(bucket, prefix)
            yield page
    except ResponseParserError as error:
        raise _no_listing(bucket, prefix) from error


def _no_listing(bucket: str, prefix: str) -> StoreError:
    return StoreError(
        f"s3://{bucket}/{prefix}: the answer is no listing of a bucket; look at AWS_ENDPOINT_URL and at the proxies on the way"
    )
