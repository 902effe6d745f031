"""Stage 7: publishes accepted variants as signed versions, moves channels and exports versions."""

from tasks.publish.export import export
from tasks.publish.publish import attest_published, commit_accepted, missing_from, promote

__all__ = ["attest_published", "commit_accepted", "export", "missing_from", "promote"]
