"""Base models that land: where they are looked for, and which of them were taken."""

__all__ = ["landings", "places", "watchlist"]
