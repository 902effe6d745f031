"""Base models that land in watched places: the watch list, the search, and the memory of landings."""

__all__ = ["landings", "places", "watchlist"]
