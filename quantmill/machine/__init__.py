"""The machine: its class, full disks, locks between processes, commands that end with their children."""

from quantmill.machine.classes import class_of, gpus, processor
from quantmill.machine.command import call

__all__ = ["call", "class_of", "disk", "gpus", "locks", "processor"]
