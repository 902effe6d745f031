"""Base models that land: where they are looked for, and which of them were taken."""

from tasks.landing import landings, places, watchlist

__all__ = ["landings", "places", "watchlist"]
