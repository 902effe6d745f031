"""The consumer's side of a store: choose, pull, verify and watch versions."""

from quantmill.client.client import Resolved, pull, resolve, verify

__all__ = ["Resolved", "pull", "pulled", "resolve", "tree", "verify", "watch", "where"]
