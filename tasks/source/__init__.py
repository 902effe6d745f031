"""Stage 1: a source becomes a `Snapshot`. A module for each service; folders, files and packages are in `places.py`."""

__all__ = ["download", "hub", "mlflow", "places", "s3", "snapshots", "templates"]
