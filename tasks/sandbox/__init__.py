"""Runs each job in its own process.

An engine that leaks memory, patches libraries or crashes harms only its own job.
"""

from tasks.sandbox.protocol import JobArguments, JobResult, Progress
from tasks.sandbox.sandbox import PROGRESS, ClosedSandbox, Sandbox

__all__ = ["PROGRESS", "ClosedSandbox", "JobArguments", "JobResult", "Progress", "Sandbox", "here", "stopping"]
