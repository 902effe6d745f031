"""The commands of the wheel, and the functions that all commands share."""

__all__ = ["answers", "client", "collect", "store", "tables", "watch"]
