"""Measures the cost of starting variants, with no-op variants, a real Prefect server and real workers.

    python -m benchmarks.scheduling --variants 10,100,1000 --workers 8     seconds per variant, and whether they grow
    python -m benchmarks.scheduling --mix                                  long and short variants: makespan and its lower bound

The shipped dispatcher starts the variants. Each figure has a server, a database and workers of its own. The workers run
`benchmarks.scheduling_work`: the shipped flow with a sleep in place of its jobs. The database is Debian's Postgres in memory,
without fsync, or SQLite if Postgres is not installed.
"""

import argparse
import json
import multiprocessing
import os
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.scheduling_factory import artifact_file, build, factory
from quantmill.files.entries import FileEntry
from quantmill.records import planning
from quantmill.records.job import VariantJob
from tests import samples
from tests.service import Service

# As many of each method as deployments/recipes/all-methods.yaml has; those that take longest stand last.
MIX = {"gguf": 20, "bitsandbytes": 3, "hqq": 5, "gptq": 5, "awq": 1, "autoround": 4}
TENSORS = 270  # of a model of 135 million weights: a run's parameters name them, 15 kB
_TICKS = os.sysconf("SC_CLK_TCK")


def measure(service: Service, jobs: list[VariantJob], workers: int) -> dict[str, Any]:
    """Build the jobs as a line does, and return times, processor seconds and requests."""
    before, at, own = _spent(service), (service.folder / "logs" / "server.log").stat().st_size, time.process_time()
    began = time.monotonic()
    with _told(service, len(jobs)):
        outcomes = build(service, jobs)
    seconds = time.monotonic() - began
    spent = {part: used - before[part] for part, used in _spent(service).items()} | {"line": time.process_time() - own}
    requests = _requests(service, at)
    ends = sorted(
        run["end_time"] for run in _runs(service) if run["deployment_id"] and run["state_type"] == "COMPLETED"
    )
    return {
        "variants": len(jobs),
        "workers": workers,
        "seconds": round(seconds, 1),
        "seconds a variant": round(seconds / len(jobs), 3),
        "seconds a variant, first and last quarter": _quarters(ends),
        "processor seconds a variant": {part: round(used / len(jobs), 3) for part, used in spent.items()},
        "requests a variant": round(sum(requests.values()) / len(jobs), 1),
        "answers from 500 on": sum(times for route, times in requests.items() if route.rpartition(" ")[2] >= "500"),
        "variants without a result": sum(outcome.report is None for outcome in outcomes.values()),
        "runs": len(ends),
        "routes": {route: round(times / len(jobs), 2) for route, times in requests.most_common(12)},
    }


@contextmanager
def _told(service: Service, total: int) -> Iterator[None]:
    """Print every half minute how many variants are done."""
    stop, reports = threading.Event(), service.home / "store" / "stages" / "report"

    def tell() -> None:
        began = time.monotonic()
        while not stop.wait(30):
            done = len(list(reports.iterdir())) if reports.exists() else 0
            print(f"{time.monotonic() - began:6.0f} s: {done} of {total}", file=sys.stderr, flush=True)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        stop.set()
        teller.join()


def _spent(service: Service) -> dict[str, float]:
    """Return part -> processor seconds so far; a worker's child counts after its end."""
    stats = {}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (place / "stat").read_text().rpartition(")")[2].split()
            stats[int(place.name)] = (int(fields[1]), [int(ticks) / _TICKS for ticks in fields[11:15]])
    workers = [stats[process.pid][1] for name, process in service.processes.items() if name.startswith("worker")]
    postgres = service.database_process
    sessions = [used for parent, used in stats.values() if parent == postgres] if postgres else []
    return {
        "runs": sum(sum(used[2:]) for used in workers),
        "workers": sum(sum(used[:2]) for used in workers),
        "server": sum(stats[service.processes["server"].pid][1]),
        "database": sum(map(sum, sessions)) + (sum(stats[postgres][1]) if postgres else 0.0),
    }


def _requests(service: Service, at: int) -> Counter[str]:
    """Return `method route status` -> count, for the requests after the first `at` bytes of the log."""
    with (service.folder / "logs" / "server.log").open("rb") as log:
        log.seek(at)
        lines = re.findall(r'"(\w+) /api(\S*) HTTP/[\d.]+" (\d+)', log.read().decode(errors="replace"))
    return Counter(f"{verb} {re.sub(r'[0-9a-f-]{36}|[?].*', '*', route)} {status}" for verb, route, status in lines)


def _runs(service: Service) -> Iterator[dict[str, Any]]:
    for offset in range(0, 10**6, 200):
        page = service.call("POST", "/flow_runs/filter", {"limit": 200, "offset": offset, "sort": "ID_DESC"})
        yield from page
        if len(page) < 200:
            return


def _quarters(ends: list[str]) -> list[float]:
    """Return the mean seconds between two ends, in the first and in the last quarter of all runs."""
    quarter, at = len(ends) // 4, [datetime.fromisoformat(end).timestamp() for end in ends]
    spans = (at[: quarter + 1], at[-quarter - 1 :])
    return [round((span[-1] - span[0]) / quarter, 3) for span in spans] if quarter else []


def no_ops(count: int, files: tuple[FileEntry, ...]) -> list[VariantJob]:
    """Return the jobs of variants that do nothing."""
    return [samples.job(f"sleep-0-{n:04}", files=files, parts=TENSORS) for n in range(count)]


def mixed(scale: float, sortable: bool, files: tuple[FileEntry, ...]) -> list[VariantJob]:
    """Return the jobs of the mix; a variant sleeps for its planned cost times `scale`.

    Unless `sortable`, planning takes all variants for equally long.
    """
    jobs = []
    for method, count in MIX.items():
        own = {"gguf": {"type": "Q8_0"}, "bitsandbytes": {"type": "int8"}}.get(method, {})
        for n in range(count):
            seconds = planning.cost(samples.job("", method, **own).spec) * scale
            name = f"sleep-{seconds:g}-{method}{n}"
            jobs.append(
                samples.job(
                    name, *((method,) if sortable else ()), files=files, parts=TENSORS, **own if sortable else {}
                )
            )
    return jobs


def scheduled(count: int, workers: int, command: str) -> dict[str, Any]:
    """Return the figures of `count` no-op variants, on a factory of their own."""
    with tempfile.TemporaryDirectory() as name, factory(Path(name), workers, command) as service:
        return measure(service, no_ops(count, artifact_file(service)), workers)


def ordered(sortable: bool, workers: int, scale: float, command: str) -> dict[str, Any]:
    """Return the figures of the mix, longest first or as listed, on a factory of its own."""
    with tempfile.TemporaryDirectory() as name, factory(Path(name), workers, command) as service:
        return makespan(service, workers, scale, sortable)


def alone(work: Callable[..., dict[str, Any]], *given: object) -> dict[str, Any]:
    """Run `work` in a process of its own and return its result.

    Prefect's client keeps threads that talk to one server.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(work, *given).result()


def table(found: list[dict[str, Any]]) -> str:
    """Return the figures as a Markdown table, without nested figures."""
    rows = []
    for figures in found:
        plain = {name: value for name, value in figures.items() if not isinstance(value, dict | list)}
        if list(plain) not in rows:
            rows.append(list(plain))
        rows.append([str(value) for value in plain.values()])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def makespan(service: Service, workers: int, scale: float, sortable: bool) -> dict[str, Any]:
    """Return the makespan of the mix and its lower bound: max(longest variant, sum of all / workers)."""
    jobs = mixed(scale, sortable, artifact_file(service))
    lengths = [float(job.name.split("-")[1]) for job in jobs]
    bound = max(max(lengths), sum(lengths) / workers)
    found = measure(service, jobs, workers)
    return {
        "order": "longest first" if sortable else "as listed",
        "variants": len(jobs),
        "lower bound, s": round(bound, 1),
        "makespan, s": found["seconds"],
        "over the bound": round(found["seconds"] / bound, 3),
        "processor seconds a variant": found["processor seconds a variant"],
        "variants without a result": found["variants without a result"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", default="", help="numbers of variants, separated by commas")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--mix", action="store_true", help="long and short variants, longest first and as listed")
    parser.add_argument("--scale", type=float, default=24.0, help="seconds of a variant with a planned cost of 1")
    parser.add_argument("--command", default="", help="the command that starts runs; default: Prefect's own")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    asked = parser.parse_args()
    found: list[dict[str, Any]] = []

    def keep(figures: dict[str, Any]) -> None:
        found.append(figures)
        print(json.dumps(figures, indent=2), flush=True)
        if asked.json:
            asked.json.write_text(json.dumps(found, indent=2) + "\n")

    for count in [int(size) for size in asked.variants.split(",") if size]:
        keep(alone(scheduled, count, asked.workers, asked.command))
    for sortable in (True, False) if asked.mix else ():
        keep(alone(ordered, sortable, asked.workers, asked.scale, asked.command))
    print(table(found))
    sys.exit(any(figures["variants without a result"] for figures in found))


if __name__ == "__main__":
    main()
