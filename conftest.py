"""For all tests of the repository."""

import gc
import os
import tempfile
from contextlib import suppress

# each process of the test run counts for itself; prometheus-client reads this at its import
os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="test-metrics-")

with suppress(ModuleNotFoundError):  # some sessions have no property-based tests
    import hypothesis

    hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine fails no test
    hypothesis.settings.load_profile("untimed")


def pytest_collection_finish() -> None:
    """Let Python's garbage collector pass over what has been imported: it stays."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
