"""Prefect's server: the embedded server, and the bootstrap of a server from the lists."""

__all__ = ["bootstrap", "embedded", "environment", "exporter"]
