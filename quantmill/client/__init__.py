"""The consumer's side: versions are chosen, pulled, verified and watched."""

from quantmill.client.client import pull, resolve, verify

__all__ = ["loading", "pull", "pulled", "resolve", "tree", "verify", "watch", "where"]
