"""Records that stages and consumers exchange: artifacts, reports, manifests; selection reads them."""

__all__ = ["artifact", "job", "loading", "manifest", "planning", "report", "run", "selection"]
