"""The grammar of `s3://bucket/prefix`, the same for models, stores and exports.

It takes what servers hold: buckets of older rules too (capitals, `_`), and every prefix that a key may begin with. Slashes
around a prefix do not count. Who needs more asks for it there: a store writes its prefix in Unicode's form NFC, as it always
did, and an export needs a prefix, because it takes over all that is below.
"""

import re
from typing import NamedTuple

PREFIX = "s3://"
RULE = (
    "s3://bucket/prefix; a bucket's name has 3 to 255 letters, digits, dots, hyphens and underscores,"
    " a prefix no part that is . or .. and no control sign"
)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,254}")


class Address(NamedTuple):
    """A place in an object store."""

    bucket: str
    prefix: str
    """Without slashes around it; empty: the whole bucket."""


def parse(place: str) -> Address | None:
    """Return the bucket and the prefix of what follows `s3://`; None where it is not written by the rule."""
    bucket, _, rest = place.partition("/")
    prefix = rest.strip("/")
    plain = prefix.isprintable() and not {".", ".."} & set(prefix.split("/"))
    return Address(bucket, prefix) if plain and _BUCKET.fullmatch(bucket) else None


def read(uri: str) -> Address:
    """Return the bucket and the prefix of an address.

    Raises:
        ValueError: it is not written by the rule.
    """
    found = parse(uri.removeprefix(PREFIX)) if uri.startswith(PREFIX) else None
    if found is None:
        raise ValueError(f"must be {RULE}")
    return found
