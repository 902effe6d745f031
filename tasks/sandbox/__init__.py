"""Runs jobs in processes of their own: an engine that leaks, patches or dies harms nothing but its own job."""

from tasks.sandbox.protocol import JobArguments, JobResult, Progress
from tasks.sandbox.sandbox import PROGRESS, ClosedSandbox, Sandbox

__all__ = ["PROGRESS", "ClosedSandbox", "JobArguments", "JobResult", "Progress", "Sandbox", "here", "stopping"]
