"""Pools: choose the pool for a variant, and run the variant there."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flows.pools.pools import Pool, PoolList, candidates, read_pools
    from flows.pools.run_watch import patiently
    from flows.pools.runs import PoolRuns, check_pools

__all__ = ["Pool", "PoolList", "PoolRuns", "candidates", "check_pools", "patiently", "read_pools"]
_WHERE = {
    "Pool": "pools",
    "PoolList": "pools",
    "PoolRuns": "runs",
    "candidates": "pools",
    "check_pools": "runs",
    "patiently": "run_watch",
    "read_pools": "pools",
}
"""Name -> its module, which is imported on first use: some modules import Prefect, which takes seconds."""


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(name)
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
