"""Reads the licence that a folder states; decides whether variants of a source may be published."""

from collections.abc import Collection, Iterable
from pathlib import Path

import yaml

from quantmill.recipe.schemes import scheme_of
from quantmill.records.artifact import Origin
from quantmill.records.job import VariantJob

OWN = "own"
"""The policy's word for a source of one's own (disk, bucket, MLflow) that states no licence."""
ANY = "*"


def forbidden(jobs: Iterable[VariantJob], allowed: Collection[str]) -> dict[str, str]:
    """Return variant -> why it may not be published, for the variants that may not.

    For an `imported` variant both the model's and the checkpoint's licence count.
    """
    found = {job.name: (job.snapshot.origin, *([job.checkpoint] if job.checkpoint else [])) for job in jobs}
    whys = {name: next(filter(None, (obstacle(o, allowed) for o in origins)), "") for name, origins in found.items()}
    return {name: why for name, why in whys.items() if why}


def obstacle(origin: Origin, allowed: Collection[str]) -> str:
    """Return why variants of a source may not be published; empty: they may."""
    stated = origin.license.lower()
    scheme = scheme_of(origin.request.source)
    own = not stated and not (scheme and scheme.third_party)
    named = stated != OWN and stated in allowed  # `own` is the policy's word; a source cannot claim it as its licence
    if ANY in allowed or named or (own and OWN in allowed):
        return ""
    said = f"its licence {stated[:60]!r} is not allowed" if stated else "its source states no licence"
    return f"not published: {said}; QUANTMILL_LICENSES allows {', '.join(allowed)} ({ANY}: any)"


def stated_in(folder: Path) -> str:
    """Return the licence in the front matter of a folder's README.md; empty: it states no licence."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")[: 1 << 20]
        front = yaml.safe_load(text[4:].partition("\n---")[0]) if text.startswith("---\n") else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError):
        return ""  # a card that cannot be read states nothing
    stated = front.get("license") if isinstance(front, dict) else None
    return stated if isinstance(stated, str) else ""
