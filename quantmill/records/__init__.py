"""What passes between stages and to consumers: artifacts, reports, manifests, and what is chosen by them."""

__all__ = ["artifact", "job", "loading", "manifest", "planning", "report", "run", "selection"]
