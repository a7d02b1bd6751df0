"""Prometheus metrics that add up over the workers, and stay right when one is replaced.

prometheus-client keeps each process' values in files under PROMETHEUS_MULTIPROC_DIR; a scrape sums them, whichever
worker answers.
"""

import os
import platform
import re
import threading
import time
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from service_kit.telemetry import folders

if folders.unnamed(os.environ.get("PROMETHEUS_MULTIPROC_DIR")):  # prometheus-client decides at its import
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folders.fresh()

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
_streams = Gauge("api_streams_open", "Streams of events that are open.", multiprocess_mode="livesum")
_streams_ended = Counter("api_streams_ended_total", "Streams of events that have ended.", ("reason",))

_OWN_FILE = re.compile(r"(counter|histogram|summary|gauge_[a-z]+)_\d+\.db")
"""How prometheus-client names what it keeps."""

answering: set[int] = set()
"""The threads that answer a request now."""

_series: dict[tuple[str, str, int], tuple[Any, Any]] = {}
_exemplars: dict[tuple[str, str, float], Exemplar] = {}


@cache
def _draining(package: str) -> Gauge:
    return Gauge(f"{package}_draining", "1 from SIGTERM until the process ends.", multiprocess_mode="livemax")


@cache
def _build(package: str) -> Gauge:
    labels = ("version", "revision", "python")
    return Gauge(f"{package}_build_info", "1, with what is running.", labels, multiprocess_mode="livemax")


def set_draining(package: str, draining: bool) -> None:
    """Publish whether the service is about to end; the metric's name begins with its package's."""
    _draining(package).set(draining)


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


def streams(number: int, ended: str = "") -> None:
    """Publish how many streams are open, and why one of them has ended."""
    _streams.set(number)
    if ended:
        _streams_ended.labels(ended).inc()


def start_worker(package: str, version: str, revision: str, threads: int, sample: Callable[[], None]) -> None:
    """Publish what is running, and set the gauges that are sampled every second. Once in each worker."""
    _threads.set(threads)
    _build(package).labels(version, revision, platform.python_version()).set(1)

    def repeat() -> None:
        while True:
            _in_flight.set(len(answering))
            sample()
            time.sleep(1)

    threading.Thread(target=repeat, name="sampled-metrics", daemon=True).start()


def worker_exited(pid: int) -> None:
    """Take a worker's live gauges out of the sum; its counts stay."""
    mark_process_dead(pid)  # type: ignore[no-untyped-call]


class FolderInUse(Exception):
    """Another service that runs keeps its metrics in this folder."""


def prepare_folder() -> None:
    """Begin with an empty folder: what a former run left there is not ours to count. In the parent, before any fork.

    The folder is this service's until its last process has ended. Raises FolderInUse where it is another's. Where
    none is named, folders that services of this user left behind are removed.
    """
    folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    if str(folder) in folders.made:
        folders.remove_left()
    else:
        folder.mkdir(parents=True, exist_ok=True)
        if folders.hold(folder) is None:
            raise FolderInUse(
                f"PROMETHEUS_MULTIPROC_DIR: another service keeps its metrics in {folder}: name a folder of its own"
            )
    for file in folder.glob("*.db"):
        if _OWN_FILE.fullmatch(file.name):
            file.unlink()


class _OfAllWorkers(MultiProcessCollector):
    """Passes over files that a worker has just created, and not written to: prometheus-client fails on them."""

    def collect(self) -> Iterable[Metric]:
        files = [str(file) for file in Path(self._path).glob("*.db") if _has_begun(file)]
        metrics: Iterable[Metric] = self.merge(files)  # type: ignore[no-untyped-call]
        return metrics


def _has_begun(file: Path) -> bool:
    try:
        return file.stat().st_size > 0
    except FileNotFoundError:  # a worker's gauges go when it ends
        return False


class _WithExemplars(_OfAllWorkers):
    """Adds this worker's latest exemplars, which the files of prometheus-client do not carry."""

    def collect(self) -> Iterable[Metric]:
        for metric in super().collect():
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
    _in_flight.set(len(answering))
    registry = CollectorRegistry()
    if "application/openmetrics-text" in accept:
        _WithExemplars(registry)  # type: ignore[no-untyped-call]
        body: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
        return body, openmetrics.CONTENT_TYPE_LATEST
    _OfAllWorkers(registry)  # type: ignore[no-untyped-call]
    return exposition.generate_latest(registry), exposition.CONTENT_TYPE_PLAIN_0_0_4
