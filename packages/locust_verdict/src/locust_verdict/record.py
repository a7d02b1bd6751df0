"""The flight record of a run: JSON lines of timed entries.

Every entry is one write to the operating system, appended, at the moment it happens: a crash of the program loses
nothing, and several programs (a load test, a deployment, a watcher of the cluster) can write into one record.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from locust_verdict import VerdictError


class Run(msgspec.Struct, frozen=True, tag="run", tag_field="type", omit_defaults=True):
    """What was run: a title, and the settings somebody would need to run it again."""

    at: float
    title: str
    settings: dict[str, Any] = {}


class Event(msgspec.Struct, frozen=True, tag="event", tag_field="type", omit_defaults=True):
    """Something that happened at a moment: a deployment, a killed pod, an HPA decision with its reason, a verdict."""

    at: float
    kind: str
    text: str
    data: dict[str, Any] = {}


class Sample(msgspec.Struct, frozen=True, tag="sample", tag_field="type", omit_defaults=True):
    """A value at a moment. `series` names the chart ("pods"), `subject` the line in it ("ready")."""

    at: float
    series: str
    value: float
    subject: str = ""
    unit: str = ""


class Requests(msgspec.Struct, frozen=True, tag="requests", tag_field="type", omit_defaults=True):
    """The requests to one endpoint of the second starting at `at`, as one generator process saw them.

    `latency` and `intended` are histograms in HDR's compressed base64 form (`histogram.py`): of the requests that ended
    within the second, the time since they were sent; in open-loop runs alone, of those that should have been sent
    within it, the time since then. `failures` counts what ended. Entries add up, over processes and time.
    """

    at: float
    endpoint: str
    failures: int
    latency: str
    intended: str = ""


class Durations(msgspec.Struct, frozen=True, tag="durations", tag_field="type", omit_defaults=True):
    """What a server had counted by then in its own histogram of one endpoint's durations.

    `buckets` holds the requests so far that took at most so many seconds, under Prometheus's `le`; `+Inf` is all.
    """

    at: float
    endpoint: str
    buckets: dict[str, int]


class Pod(msgspec.Struct, frozen=True, omit_defaults=True):
    """A pod as the autoscaler's controller sees it. Times are Unix seconds; cpu in cores, memory in bytes.

    `ready_changed` is when readiness last changed; `measured` ends the metrics' `window`, None without metrics.
    """

    name: str
    phase: str
    ready: bool
    deleting: bool = False
    started: float | None = None
    ready_changed: float | None = None
    cpu_request: float = 0
    cpu_limit: float = 0
    memory_request: float = 0
    cpu: float | None = None
    memory: float | None = None
    measured: float | None = None
    window: float = 0


class Cluster(msgspec.Struct, frozen=True, tag="cluster", tag_field="type", omit_defaults=True):
    """A deployment with its pods and its HorizontalPodAutoscaler at a moment.

    `replicas` is the deployment's `spec.replicas`; `autoscaler` is the HPA's `spec` (autoscaling/v2); `synced` is when
    the controller last wrote the HPA's status.
    """

    at: float
    replicas: int
    pods: list[Pod]
    autoscaler: dict[str, Any]
    synced: float | None = None

    def samples(self) -> Iterator[Sample]:
        """Yield what a chart shows of it."""
        ready = sum(pod.ready and not pod.deleting for pod in self.pods)
        yield Sample(self.at, "pods", self.replicas, "desired", "pods")
        yield Sample(self.at, "pods", ready, "ready", "pods")
        for pod in self.pods:
            if pod.cpu is not None and pod.cpu_request:
                yield Sample(self.at, "CPU", 100 * pod.cpu / pod.cpu_request, pod.name, "% of request")


Entry = Run | Event | Sample | Requests | Durations | Cluster


class Recorder:
    """Appends entries to a record; a context manager. `at` is Unix time in seconds, by default now."""

    def __init__(self, path: Path) -> None:
        """Open `path` for appending, making its folder where needed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("ab", buffering=0)
        self._encoder = msgspec.json.Encoder()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what was written stays."""
        self._file.close()

    def write(self, entry: Entry) -> None:
        """Append one entry, in one write."""
        self._file.write(self._encoder.encode(entry) + b"\n")

    def run(self, title: str, *, at: float | None = None, **settings: Any) -> None:
        """Record what is being run."""
        self.write(Run(_now(at), title, settings))

    def event(self, kind: str, text: str, *, at: float | None = None, **data: Any) -> None:
        """Record something that happened; `text` is for people, `data` for programs."""
        self.write(Event(_now(at), kind, text, data))

    def sample(self, series: str, value: float, *, subject: str = "", unit: str = "", at: float | None = None) -> None:
        """Record a measured value."""
        self.write(Sample(_now(at), series, value, subject, unit))


class BadRecordError(VerdictError):
    """The file is not a flight record."""


def read(path: Path) -> Iterator[Entry]:
    """Yield a record's entries as they were written. A last line cut short by a crash is left out.

    Raises BadRecordError, with the line's number, for any other line that is not an entry.
    """
    decoder = msgspec.json.Decoder(Entry)
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield decoder.decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                message = f"{path}:{number}: not an entry of a flight record: {error}"
                raise BadRecordError(message) from error


def _now(at: float | None) -> float:
    return time.time() if at is None else at
