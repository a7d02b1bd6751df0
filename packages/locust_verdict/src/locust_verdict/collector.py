"""Carries what Locust measures into the flight record, second by second, from one process or from many workers."""

import sys
import time
import urllib.request
from collections import defaultdict
from pathlib import Path
from typing import Any

import gevent
import msgspec
from locust.argument_parser import ui_extra_args_dict
from locust.runners import MasterRunner, WorkerRunner
from prometheus_client.parser import text_string_to_metric_families

from locust_verdict import histogram
from locust_verdict.record import Durations, Entry, Event, Recorder, Requests, Sample
from locust_verdict.seconds import Seconds

SCRAPE_SECONDS = 5
TICK_SECONDS = 0.025


class Generator:
    """Collects in a process that makes requests."""

    def __init__(self, environment: Any) -> None:
        self._environment = environment
        self._seconds = Seconds()
        self._lags = histogram.new()
        self._errors: list[Event] = []
        self._taken = (time.perf_counter(), time.process_time())
        gevent.spawn(self._tick)
        environment.events.request.add_listener(self.request)
        environment.events.user_error.add_listener(self.error)

    def request(
        self,
        *,
        request_type: str,
        name: str,
        response_time: float,
        exception: object,
        context: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Count one request, as Locust reports it. Its context may have `lateness`, in milliseconds (open loop)."""
        endpoint, late = f"{request_type} {name}", (context or {}).get("lateness")
        self._seconds.add(endpoint, time.time(), response_time, late=late, failed=exception is not None)

    def _tick(self) -> None:
        """Measure how late this process wakes: where that is long, its own work is what delays the requests."""
        while True:
            due = time.perf_counter() + TICK_SECONDS
            gevent.sleep(TICK_SECONDS)
            histogram.record(self._lags, 1000 * (time.perf_counter() - due))

    def error(self, *, exception: BaseException, **_: Any) -> None:
        """Keep what a user's own code raised: the load was not what it should have been."""
        self._errors.append(Event(time.time(), "error", f"a user raised {exception!r}"))

    def take(self) -> list[Entry]:
        """Return everything collected since the last time."""
        now = time.time()
        (wall, cpu), self._taken = self._taken, (time.perf_counter(), time.process_time())
        used = 100 * (self._taken[1] - cpu) / max(self._taken[0] - wall, 1e-6)
        lags, self._lags = self._lags, histogram.new()
        errors, self._errors = self._errors, []
        entries: list[Entry] = [*errors, *self._seconds.take()]
        if lags.get_total_count():
            runner = self._environment.runner
            process = f"process {runner.worker_index}" if isinstance(runner, WorkerRunner) else "process"
            lag = lags.get_value_at_percentile(95) / 1000
            entries.append(Sample(now, "generator lag P95", lag, process, "ms"))
            entries.append(Sample(now, "generator CPU", used, process, "%"))
        return entries


class Collector:
    """Writes the record: in the only process, or in the master."""

    def __init__(self, environment: Any, generator: Generator | None) -> None:
        self._environment = environment
        self._generator = generator
        self._recorder: Recorder | None = None
        self._seen = histogram.new()
        self._failures = 0
        if generator is None:
            entries = msgspec.msgpack.Decoder(list[Entry])
            environment.events.worker_report.add_listener(lambda data, **_: self.write(entries.decode(data["record"])))
        environment.events.quitting.add_listener(self.flush)
        environment.events.test_stop.add_listener(self.flush)

    def begin(self, host: str) -> None:
        """Begin a run: write the entry that describes it, and start its loops."""
        options = self._environment.parsed_options
        self._recorder = Recorder(Path(options.record))
        own = {name: getattr(options, name) for name, more in ui_extra_args_dict().items() if not more["is_secret"]}
        self._recorder.run("Load test", host=host, users=options.num_users or 1, **own)
        for loop in (self._every_second, self._scrape):
            gevent.spawn(loop, self._recorder)

    def write(self, entries: list[Entry]) -> None:
        """Write entries; what workers report before the first start is left out."""
        if self._recorder is None:
            return
        for entry in entries:
            self._recorder.write(entry)
            if isinstance(entry, Requests):
                self._seen.decode_and_add(entry.latency)
                self._failures += entry.failures

    def flush(self, **_: Any) -> None:
        """Write what this process itself has collected and not written yet."""
        if self._generator:
            self.write(self._generator.take())

    def _every_second(self, recorder: Recorder) -> None:
        start = last = time.time()
        while self._recorder is recorder:
            gevent.sleep(1)
            self.flush()
            users = self._environment.runner.user_count
            recorder.sample("users", users)
            interval = 1 if sys.stderr.isatty() else 10
            options = self._environment.parsed_options
            if time.time() - last >= interval and options.headless and options.only_summary:
                self._progress(time.time() - start, time.time() - last, users)
                last = time.time()

    def _progress(self, after: float, interval: float, users: int) -> None:
        requests = self._seen.get_total_count()
        p95 = f"P95 {self._seen.get_value_at_percentile(95) / 1000:.1f} ms" if requests else "no answers"
        line = f"{after:6.0f} s  {users:4} users  {requests / interval:7.1f} requests/s  {p95}  {self._failures} failed"
        start, end = ("\r", "") if sys.stderr.isatty() else ("", "\n")
        print(f"{start}{line}", end=end, file=sys.stderr, flush=True)
        self._seen, self._failures = histogram.new(), 0

    def _scrape(self, recorder: Recorder) -> None:
        options = self._environment.parsed_options
        while options.metrics and self._recorder is recorder:
            try:
                with urllib.request.urlopen(f"{self._environment.host}{options.metrics}", timeout=10) as answer:
                    text = answer.read().decode()
            except OSError as error:
                recorder.event("note", f"the service's own metrics could not be read: {error}")
                return
            for entry in durations(text, options.histogram, time.time()):
                recorder.write(entry)
            gevent.sleep(SCRAPE_SECONDS)


def durations(metrics: str, name: str, at: float) -> list[Durations]:
    """Read each endpoint's histogram of durations from a server's metrics in Prometheus's text format.

    Its labels are `method` and `endpoint`; together they are the name of Locust's requests.
    """
    buckets: dict[str, dict[str, int]] = defaultdict(dict)
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            if sample.name == f"{name}_bucket":
                endpoint = f"{sample.labels['method']} {sample.labels['endpoint']}"
                buckets[endpoint][sample.labels["le"]] = int(sample.value)
    return [Durations(at, endpoint, counts) for endpoint, counts in buckets.items()]


def attach(environment: Any) -> Collector:
    """Attach what this process needs: a worker reports to the master, the master writes, an only process does both."""
    generator = None if isinstance(environment.runner, MasterRunner) else Generator(environment)
    if isinstance(environment.runner, WorkerRunner):
        assert generator is not None  # a worker is no master

        def report(data: dict[str, Any], **_: Any) -> None:
            data["record"] = msgspec.msgpack.encode(generator.take())

        environment.events.report_to_master.add_listener(report)
    return Collector(environment, generator)
