"""Stage 1: turns a source into a `Snapshot`. `schemes/` has one module for each scheme of sources."""

__all__ = ["download", "fields", "places", "sights", "snapshots", "templates"]
