"""Load tests of this repository: users and shapes for Locust, comparisons, pages, the HPA simulator.

The record and the verdict are the package `locust_verdict`.
"""

from tooling.project import ToolingError


class LoadTestError(ToolingError):
    """A load test or a comparison cannot be made; the message is the reason, in one line."""
