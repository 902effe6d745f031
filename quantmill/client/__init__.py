"""The consumer's side: versions are chosen, pulled, verified and watched."""

from quantmill.client.client import Resolved, pull, resolve, verify

__all__ = ["Resolved", "pull", "pulled", "resolve", "tree", "verify", "watch", "where"]
