"""`quantmill metrics`: the factory's metrics for Prometheus, from the Prefect server and the store.

Runs live only for minutes, so Prometheus cannot scrape them; but the server's database and the store record everything they
did. One exporter for a factory reads both, on any machine that can reach them.
"""

import math
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Literal

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import PrefectException
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from flows.stages import in_words
from quantmill.errors import QuantmillError
from quantmill.recipe.methods import METHODS
from quantmill.store.store import Store
from tasks import convert, publish, register, text
from tasks.source import download

STAGES = {
    "download": in_words(download.fetch_snapshot),
    "calibrate": in_words(text.build_token_sets),
    "convert": in_words(convert.convert_snapshot),
    "quantize": "quantize ",
    "evaluate": "evaluate ",
    "publish": in_words(publish.commit_accepted),
    "register": in_words(register.deliver),
}
"""Stage -> a text that the names of its task runs contain."""
_OPEN = ("SCHEDULED", "PENDING", "RUNNING", "CANCELLING", "PAUSED")
_WAITING = _OPEN[:2]
_EPOCH = "2020-01-01T00:00:00Z"
_History = Literal["/flow_runs/history", "/task_runs/history"]


class Exporter(Collector):
    """Collects metrics at a scrape; scrapes within `every_s` seconds get the same answer."""

    def __init__(self, store: Store, every_s: float = 15.0) -> None:
        """Ask nobody yet."""
        self._store, self._every_s = store, every_s
        self._asked, self._families = -every_s, list[Metric]()
        self._one_asks = threading.Lock()  # each scrape has a thread of its own
        self._sizes: dict[str, dict[str, int]] = {}

    def collect(self) -> Iterable[Metric]:
        """Return all metric families; a source that does not answer is left out, with `quantmill_up` 0."""
        with self._one_asks:
            if time.monotonic() - self._asked >= self._every_s:
                self._families = self._ask_all()
                self._asked = time.monotonic()
            return self._families

    def _ask_all(self) -> list[Metric]:
        up = GaugeMetricFamily(
            "quantmill_up", "1 if the source (Prefect server or store) answered, else 0.", labels=["of"]
        )
        families: list[Metric] = [up]
        for of, ask in {"server": self._server, "store": self._stored}.items():
            try:
                families += ask()
                up.add_metric([of], 1.0)
            except (httpx.HTTPError, PrefectException, QuantmillError, OSError):
                up.add_metric([of], 0.0)
        return families

    def _server(self) -> list[Metric]:
        with get_client(sync_client=True) as client:
            return [*_variants(client), *_lines(client), *_stages(client), *_pools(client)]

    def _stored(self) -> list[Metric]:
        versions = GaugeMetricFamily("quantmill_published_versions", "Published versions in the store.")
        size = GaugeMetricFamily("quantmill_published_bytes", "Bytes of all published files, each content once.")
        waiting = GaugeMetricFamily("quantmill_runs_waiting_for_mlflow", "Runs that MLflow has not been told of.")
        published = self._store.published()
        digests = {digest for _, _, digest in published}
        for digest in digests - self._sizes.keys():
            self._sizes[digest] = {file.sha256: file.size_bytes for file in self._store.manifest(digest).files}
        blobs = {sha256: size for digest in digests for sha256, size in self._sizes[digest].items()}
        versions.add_metric([], len(published))
        size.add_metric([], sum(blobs.values()))
        waiting.add_metric([], len(register.waiting(self._store)))
        return [versions, size, waiting]


def _variants(client: SyncPrefectClient) -> Iterator[Metric]:
    """Yield the outcomes and times of variants' runs, over the server's whole history."""
    total = CounterMetricFamily("quantmill_variants", "Variants' runs that ended.", labels=["method", "outcome"])
    seconds = CounterMetricFamily("quantmill_variant_seconds", "Seconds that variants' runs ran.", labels=["method"])
    waited = CounterMetricFamily(
        "quantmill_variant_wait_seconds", "Seconds that variants' runs waited.", labels=["method"]
    )
    for method in METHODS:
        wanted = {"flow_runs": {"tags": {"all_": ["quantmill", method]}}, "flows": _named("variant")}
        ended = [state for state in _history(client, "/flow_runs/history", wanted) if state["state_type"] not in _OPEN]
        for state in ended:
            total.add_metric([method, state["state_name"]], state["count_runs"])
        seconds.add_metric([method], sum(state["sum_estimated_run_time"] for state in ended))
        waited.add_metric([method], sum(state["sum_estimated_lateness"] for state in ended))
    yield from (total, seconds, waited)


def _lines(client: SyncPrefectClient) -> Iterator[Metric]:
    """Yield the outcomes of all flows' runs, and the runs that are open now."""
    ended = CounterMetricFamily("quantmill_runs", "Runs that ended.", labels=["flow", "outcome"])
    open_now = GaugeMetricFamily("quantmill_open_runs", "Runs that have not ended.", labels=["flow", "state"])
    for flow in ("compress", "variant", "watch"):
        for state in _history(client, "/flow_runs/history", {"flows": _named(flow)}):
            into = open_now if state["state_type"] in _OPEN else ended
            into.add_metric([flow, state["state_name"]], state["count_runs"])
    yield from (ended, open_now)


def _stages(client: SyncPrefectClient) -> Iterator[Metric]:
    total = CounterMetricFamily("quantmill_stages", "Stages that ended.", labels=["stage", "outcome"])
    seconds = CounterMetricFamily("quantmill_stage_seconds", "Seconds that stages took.", labels=["stage"])
    for stage, name in STAGES.items():
        states = _history(client, "/task_runs/history", {"task_runs": {"name": {"like_": name}}})
        ended = [state for state in states if state["state_type"] not in _OPEN]
        for state in ended:
            total.add_metric([stage, state["state_name"]], state["count_runs"])
        seconds.add_metric([stage], sum(state["sum_estimated_run_time"] for state in ended))
    yield from (total, seconds)


def _pools(client: SyncPrefectClient) -> Iterator[Metric]:
    """Yield each pool's waiting runs, their longest wait, and the pool's workers."""
    waiting = GaugeMetricFamily("quantmill_waiting_runs", "Runs that wait for a slot.", labels=["pool"])
    oldest = GaugeMetricFamily(
        "quantmill_oldest_wait_seconds", "Seconds that the oldest waiting run has waited.", labels=["pool"]
    )
    workers = GaugeMetricFamily("quantmill_workers", "Workers that the server knows.", labels=["pool", "status"])
    now = datetime.now(UTC)
    for pool in client.request("POST", "/work_pools/filter", json={}).json():
        name = pool["name"]
        due = {"state": {"type": {"any_": _WAITING}}, "expected_start_time": {"before_": now.isoformat()}}
        wanted: dict[str, Any] = {"flow_runs": due, "work_pools": {"name": {"any_": [name]}}}
        waiting.add_metric([name], client.request("POST", "/flow_runs/count", json=wanted).json())
        first = {"sort": "EXPECTED_START_TIME_ASC", "limit": 1}
        ages = [
            (now - datetime.fromisoformat(run["expected_start_time"])).total_seconds()
            for run in client.request("POST", "/flow_runs/filter", json=wanted | first).json()
        ]
        oldest.add_metric([name], max(ages, default=0.0))
        statuses = [
            worker["status"]
            for worker in client.request(
                "POST", "/work_pools/{work_pool_name}/workers/filter", path_params={"work_pool_name": name}, json={}
            ).json()
        ]
        for status in ("ONLINE", "OFFLINE"):
            workers.add_metric([name, status.lower()], statuses.count(status))
    yield from (waiting, oldest, workers)


def _named(flow: str) -> dict[str, Any]:
    return {"name": {"any_": [flow]}}


def _history(client: SyncPrefectClient, route: _History, wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the states of runs, each with a count and seconds that the server's database added up."""
    now = datetime.now(UTC)
    span = {"history_start": _EPOCH, "history_end": now.isoformat()}
    whole = {"history_interval_seconds": math.ceil((now - datetime.fromisoformat(_EPOCH)).total_seconds())}
    (bucket,) = client.request("POST", route, json=span | whole | wanted).json()
    return list(bucket["states"])
