"""Stage 1: a source becomes a `Snapshot`. `places` finds the module of its scheme in `schemes/`."""

__all__ = ["download", "fields", "places", "sights", "snapshots", "templates"]
