"""Environments: sets of packages that cannot be installed beside the factory's packages.

Each environment has its own folder and is made from an exact lock.
"""

from tasks.environments.check import problems
from tasks.environments.collect import collect
from tasks.environments.create import create
from tasks.environments.described import Environment, read, read_all
from tasks.environments.made import find_made, interpreter

__all__ = ["Environment", "collect", "create", "find_made", "interpreter", "problems", "read", "read_all"]
