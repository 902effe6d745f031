"""The parent's side of a job: starts the job's process, relays its progress and explains its death.

A job gets a file, leaves a result file and a folder, and writes progress lines to a pipe. It leads a process group, which
the parent kills as a whole on timeout or cancellation. The parent holds the other end of the job's standard input, so the
job dies with the parent. Engines patch each other's libraries on import, leak memory, print megabytes and get killed:
none of that reaches the parent.
"""

import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

from quantmill.errors import NotCached, Stopped, TimedOut
from quantmill.machine import disk
from quantmill.records.job import VariantJob
from quantmill.settings import Settings
from tasks import environments, installed
from tasks.sandbox import stopping, surroundings
from tasks.sandbox.deaths import KillWatch, raise_death
from tasks.sandbox.here import peak_memory
from tasks.sandbox.protocol import JobArguments, JobFile, JobResult
from tasks.sandbox.surroundings import machine_held, scratch

PROGRESS = logging.getLogger("quantmill.progress")
_POLL_S = 0.1
_CHILD = ("pydantic", "pydantic-settings", "pyyaml")
"""Packages that the child process imports: the lock of every environment that runs jobs pins them."""


class Sandbox:
    """Runs jobs on this machine, with scratch folders in `HOME/scratch` and logs in `HOME/logs`."""

    def __init__(self, settings: Settings, run: str = "") -> None:
        """Take limits and folders from the settings; `run` is the run's id in the jobs' logs.

        No folder is created before the first job.
        """
        self.home = settings.home.absolute()
        self._settings, self._run = settings, run
        self.timing = {"budget_s": settings.speed_s, "busy_limit": settings.busy_share}

    @contextmanager
    def run(
        self,
        arguments: JobArguments,
        name: str,
        packages: tuple[str, ...] = (),
        threads: int = 0,
        environment: str = "",
    ) -> Iterator[JobResult]:
        """Run one job to its end and yield its result.

        Args:
            arguments: the job's arguments; the function `run` in their module does the job.
            name: what the job works for, such as a variant's name; progress lines and the log's file name contain it.
            packages: the packages whose locked versions must be installed.
            threads: the engine's number of threads; 0: the number in the settings.
            environment: the environment whose interpreter runs the job; empty: the factory's environment.

        Raises:
            EnvironmentNotReady: the environment does not exist on this machine.
            JobError: the job failed; the class says how, and the message names the log.
            DiskFull: the home's disk is full.
            Stopped: the run was stopped, before the job started or while the job ran.
        """
        kind = arguments.kind
        stopping.require_going(f"{name}: {kind}")
        expected = installed.locked((*packages, *(_CHILD if environment else ())), environment)
        python = self._python(environment)
        with disk.room_at(self.home), self.scratch() as folder:
            log = self._log(name, kind)
            log.parent.mkdir(parents=True, exist_ok=True)
            job = JobFile(
                kind=kind,
                module=type(arguments).__module__,
                name=name,
                arguments=arguments.model_dump(mode="json"),
                folder=folder,
                progress_fd=-1,
                threads=threads or self._settings.engine_threads,
                expected=expected,
                environment=environment,
                alone=arguments.alone,
            )
            with machine_held(arguments.alone, waiting=lambda: stopping.require_going(f"{name}: {kind}")) as lock:
                started = time.monotonic()
                peak = self._wait(python, job.model_copy(update={"machine_fd": lock}), log)
                seconds = time.monotonic() - started
            result = json.loads((folder / "result.json").read_bytes())
            yield JobResult(
                value=result["value"],
                out=folder / "out",
                seconds=seconds,
                peak_memory_bytes=max(peak, result["peak_memory_bytes"]),
            )

    def scratch(self) -> AbstractContextManager[Path]:
        """Yield an empty folder on the home's disk with `out`, `work` and `tmp` in it; delete it at the end."""
        return scratch(self.home / "scratch")

    def logs(self, jobs: list[VariantJob]) -> dict[str, Path]:
        """Return variant -> the log of its quantize job, for variants that have a log."""
        paths = {job.name: self._log(job.name, "artifact") for job in jobs}
        return {name: path for name, path in paths.items() if path.exists()}

    def _python(self, environment: str) -> Path:
        """Return the interpreter of an environment; without a name, the interpreter of the factory's jobs."""
        if environment:
            return environments.interpreter(environment, self._settings.environments_folder)
        return self._settings.python or Path(sys.executable)

    def _log(self, name: str, kind: str) -> Path:
        return self.home / "logs" / f"{name}-{kind}.log"

    def _heading(self, job: JobFile) -> bytes:
        """Return the first line of a job's log, with the fields of structured logs: run, variant, stage."""
        started = datetime.now(UTC).isoformat(timespec="milliseconds")
        return json.dumps({"time": started, "flow_run_id": self._run, "variant": job.name, "stage": job.kind}).encode()

    def _wait(self, python: Path, job: JobFile, log: Path) -> int:
        """Run the job's process, relay its progress and return its peak memory; raise the error of its death."""
        read_fd, write_fd = os.pipe()
        job = job.model_copy(update={"progress_fd": write_fd})
        job_path = job.folder / "job.json"
        job_path.write_text(job.model_dump_json())
        kills, peak, ended = KillWatch(), 0, threading.Event()
        with log.open("wb") as output, closing(os.fdopen(read_fd, "rb", buffering=0)) as pipe:
            output.write(self._heading(job) + b"\n")
            output.flush()
            try:
                process = subprocess.Popen(
                    [str(python), "-m", "tasks.sandbox.child", str(job_path)],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=job.folder / "work",
                    env=surroundings.environment(job.folder, job.threads, job.alone),
                    pass_fds=(write_fd, job.machine_fd),
                    start_new_session=True,
                )
            finally:
                os.close(write_fd)
            stopping.RUNNING.add(process)
            relay = threading.Thread(target=_relay, args=(pipe, job, ended), daemon=True)
            relay.start()
            try:
                deadline = time.monotonic() + self._settings.job_timeout_s
                while process.poll() is None:
                    if stopping.is_stopped():  # `stop_all` misses a process that starts while the latch is being set
                        break
                    peak = max(peak, peak_memory(process.pid))
                    kills.look(process.pid)
                    if time.monotonic() > deadline:
                        raise TimedOut(f"{job.kind} took longer than {self._settings.job_timeout_s:g} s; log: {log}")
                    time.sleep(_POLL_S)
            finally:
                stopping.RUNNING.discard(process)
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                if process.stdin:
                    process.stdin.close()
                ended.set()
                relay.join()
        if stopping.is_stopped() and process.returncode != 0:
            raise Stopped(f"{job.kind}: ended, as the run was stopped; log: {log}")
        raise_death(job.kind, job.folder / "result.json", process.returncode, peak, kills.struck(), log)
        return peak


class ClosedSandbox(Sandbox):
    """A sandbox that runs no job: callers use it to ask whether all results exist already."""

    @contextmanager
    def run(
        self,
        arguments: JobArguments,
        name: str,
        packages: tuple[str, ...] = (),  # noqa: ARG002 (the signature of Sandbox.run)
        threads: int = 0,  # noqa: ARG002
        environment: str = "",  # noqa: ARG002
    ) -> Iterator[JobResult]:
        """Raise NotCached."""
        raise NotCached(f"{name}: {arguments.kind} has not run yet")
        yield  # makes this function a generator, as `contextmanager` needs


def _relay(pipe: FileIO, job: JobFile, ended: threading.Event) -> None:
    """Turn the job's progress lines into log records, which log handlers show as bars.

    A process that a job left running outside its group may hold the pipe open, so the relay stops once the job has `ended`.
    """
    rest = b""
    with selectors.DefaultSelector() as ready:
        ready.register(pipe, selectors.EVENT_READ)
        while ready.select(_POLL_S) or not ended.is_set():
            if not ready.select(0):
                continue
            if not (data := pipe.read(1 << 16)):
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                _tell(line, job)


def _tell(line: bytes, job: JobFile) -> None:
    try:
        record = json.loads(line)
        step, done, total = str(record["step"]), int(record["done"]), int(record["total"])
    except (ValueError, KeyError, TypeError):
        return  # an engine wrote into the pipe that it inherited
    extra = {"variant": job.name, "stage": job.kind, "step": step, "done": done, "total": total}
    PROGRESS.info("%s: %s %d of %d", job.name, step, done, total, extra=extra)
