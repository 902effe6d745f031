"""Stage 1: a source becomes a `Snapshot`. One module for each kind of source."""

__all__ = ["download", "hub", "mlflow", "places", "s3", "snapshots", "templates"]
