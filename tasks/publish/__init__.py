"""Stage 7: accepted variants become signed versions; channels move; versions are exported."""

from tasks.publish.export import export
from tasks.publish.publish import attest_published, commit_accepted, missing_from, promote

__all__ = ["attest_published", "commit_accepted", "export", "missing_from", "promote"]
