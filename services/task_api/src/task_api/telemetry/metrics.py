"""Prometheus metrics that add up over the workers, and stay right when one is replaced.

prometheus-client keeps each process' values in files under PROMETHEUS_MULTIPROC_DIR; a scrape sums them, whichever
worker answers.
"""

import os
import platform
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:  # prometheus-client decides at its import
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="task-api-metrics-")

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, exposition
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.samples import Exemplar, Sample

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

_requests = Counter("api_requests_total", "Requests answered.", ("endpoint", "method", "status"))
_duration = Histogram(
    "api_request_duration_seconds", "Time to answer a request.", ("endpoint", "method"), buckets=BUCKETS
)
_in_flight = Gauge("api_requests_in_flight", "Requests being answered.", multiprocess_mode="livesum")
_threads = Gauge("api_request_threads", "Requests answered at once at most.", multiprocess_mode="livesum")
_auth_failures = Counter("api_auth_failures_total", "Requests refused for who sent them.", ("reason",))
_rate_limited = Counter("api_rate_limited_total", "Requests refused by the rate limit.")
_connections = Gauge("db_pool_connections", "Database connections.", ("state",), multiprocess_mode="livesum")
_pool_size = Gauge("db_pool_size", "Database connections at most.", multiprocess_mode="livesum")
_build = Gauge(
    "task_api_build_info", "1, with what is running.", ("version", "revision", "python"), multiprocess_mode="livemax"
)
_key_created = Gauge(
    "api_signing_key_created_timestamp_seconds",
    "When the key that signs tokens was made.",
    ("kid",),
    multiprocess_mode="livemax",
)
_draining = Gauge("task_api_draining", "1 from SIGTERM until the process ends.", multiprocess_mode="livemax")

_OWN_FILE = re.compile(r"(counter|histogram|summary|gauge_[a-z]+)_\d+\.db")
"""How prometheus-client names what it keeps."""

_answering: set[int] = set()
"""The threads that answer a request now."""
auth_failed: Callable[[str], None] = lambda reason: _auth_failures.labels(reason).inc()  # noqa: E731
rate_limited = _rate_limited.inc
set_draining = _draining.set

_series: dict[tuple[str, str, int], tuple[Any, Any]] = {}
_exemplars: dict[tuple[str, str, float], Exemplar] = {}


def observe(endpoint: str, method: str, status: int, seconds: float, trace_id: str | None) -> None:
    """Count an answered request. `endpoint` is the route's template, so that clients cannot make up labels."""
    key = (endpoint, method, status)
    series = _series.get(key)
    if series is None:
        series = _series[key] = (_requests.labels(endpoint, method, str(status)), _duration.labels(endpoint, method))
    series[0].inc()
    series[1].observe(seconds)
    if trace_id:
        bucket = next((bound for bound in BUCKETS if seconds <= bound), float("inf"))
        _exemplars[endpoint, method, bucket] = Exemplar({"trace_id": trace_id}, seconds, time.time())


@contextmanager
def in_flight() -> Iterator[None]:
    """Count a request as being answered in this thread, for as long as the block."""
    thread = threading.get_ident()
    _answering.add(thread)
    try:
        yield
    finally:
        _answering.discard(thread)


def start_worker(version: str, revision: str, threads: int, pool: Any) -> None:
    """Publish what is running; watch requests and the database pool (SQLAlchemy's QueuePool). Once in each worker."""
    _threads.set(threads)
    _build.labels(version, revision, platform.python_version()).set(1)
    _pool_size.set(pool.size())
    in_use, idle = _connections.labels("in_use"), _connections.labels("idle")

    def sample() -> None:
        while True:
            _in_flight.set(len(_answering))
            in_use.set(pool.checkedout())
            idle.set(pool.checkedin())
            time.sleep(1)

    threading.Thread(target=sample, name="sampled-metrics", daemon=True).start()


def signing_key(kid: str) -> None:
    """Publish the age of the key that signs tokens, where its id begins with a date, as in 20260131-4f2a."""
    try:
        created = datetime.strptime(kid[:8], "%Y%m%d").replace(tzinfo=UTC)
    except ValueError:
        return
    _key_created.labels(kid).set(created.timestamp())


def worker_exited(pid: int) -> None:
    """Take a worker's live gauges out of the sum; its counts stay."""
    mark_process_dead(pid)  # type: ignore[no-untyped-call]


def prepare_folder() -> None:
    """Begin with an empty folder: what a former run left there is not ours to count. In the parent, before any fork."""
    folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.db"):
        if _OWN_FILE.fullmatch(file.name):
            file.unlink()


class _WithExemplars(MultiProcessCollector):
    """Adds this worker's latest exemplars, which the files of prometheus-client do not carry."""

    def collect(self) -> Iterable[Metric]:
        for metric in super().collect():  # type: ignore[no-untyped-call]
            if metric.name == "api_request_duration_seconds":
                metric.samples = [self._with_exemplar(sample) for sample in metric.samples]
            yield metric

    @staticmethod
    def _with_exemplar(sample: Sample) -> Sample:
        if not sample.name.endswith("_bucket"):
            return sample
        key = (sample.labels["endpoint"], sample.labels["method"], float(sample.labels["le"]))
        return sample._replace(exemplar=_exemplars.get(key))


def expose(accept: str) -> tuple[bytes, str]:
    """(body, content type) of a scrape: OpenMetrics with exemplars where that is accepted, else Prometheus' text."""
    _in_flight.set(len(_answering))
    registry = CollectorRegistry()
    if "application/openmetrics-text" in accept:
        _WithExemplars(registry)  # type: ignore[no-untyped-call]
        body: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
        return body, openmetrics.CONTENT_TYPE_LATEST
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return exposition.generate_latest(registry), exposition.CONTENT_TYPE_PLAIN_0_0_4
