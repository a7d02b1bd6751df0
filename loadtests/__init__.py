"""Load tests with a verdict: users and shapes for Locust, the gate, the flight record, the HPA simulator."""

from tooling.project import ToolingError


class LoadTestError(ToolingError):
    """A load test, a record or a comparison cannot be made; the message is the reason, in one line."""
