"""What a service is to the code that all services share."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from service_kit.config import Settings
from service_kit.telemetry.traces import Tracer


class NotReady(Exception):
    """Requests should go elsewhere for now; the message is the reason."""


class Service:
    """One running service: its settings, and the hooks by which it adds to what all services do."""

    name: ClassVar[str]
    """The distribution, the command and the process are called so, such as `some-service`."""
    title: ClassVar[str]
    version: ClassVar[str]
    description: ClassVar[str] = ""
    common_problems: ClassVar[Mapping[int, str]] = {}
    """Statuses beside 500 that every operation may return, with their description; probes and metrics never do."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.tracer: Tracer | None = None
        self.draining: Callable[[], bool] = lambda: False

    @property
    def package(self) -> str:
        """The name as an identifier, such as `some_service`: metrics begin with it."""
        return self.name.replace("-", "_")

    @property
    def authenticates(self) -> bool:
        """Whether operations need a bearer token unless they are public."""
        return False

    def check(self) -> None:
        """Raise NotReady, or any error that is answered by 503, while requests cannot be served."""

    def start_worker(self) -> None:
        """Set up what a worker process needs for itself, after the fork."""

    def sample(self) -> None:
        """Set the gauges that are read from time to time; called every second in each worker."""

    def start_tracer(self) -> Tracer:
        """Return a tracer that sends spans to OTEL_EXPORTER_OTLP_ENDPOINT."""
        return Tracer(self.name, self.version)

    def admit(self, context: Any) -> None:
        """Raise what a request is refused by before its handler runs; `context` is `flask.g`."""

    def log_fields(self, context: Any) -> dict[str, Any]:  # noqa: ARG002
        """Fields that the log line of a request has beside the usual ones; `context` is `flask.g`."""
        return {}

    def headers(self, context: Any) -> list[tuple[str, str]]:  # noqa: ARG002
        """Headers that a response has beside the usual ones; `context` is `flask.g`."""
        return []
