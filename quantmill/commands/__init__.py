"""The commands of the wheel, and what all commands share."""

__all__ = ["answers", "client", "collect", "store", "tables", "watch"]
