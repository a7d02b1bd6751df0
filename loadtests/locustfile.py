"""What Locust loads: the users, the shape and the options, which its browser UI shows too."""

import time
import urllib.error
import urllib.request
from typing import Any

from locust import LoadTestShape, events
from locust.runners import MasterRunner, WorkerRunner

from loadtests import shapes
from loadtests.users import Importer, Reader, Session, Writer, Yardstick
from locust_verdict import plugin

__all__ = ["Importer", "Reader", "Session", "Shape", "Writer", "Yardstick", "plugin"]

DRAIN_SECONDS = 5  # longer than Locust's workers take to report (3 s)


class Shape(LoadTestShape):
    """Follows the shape chosen by --shape, up to --users, over --run-time or the shape's own length."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """Return the number of users wanted now; in the end let requests in flight finish before the run stops."""
        runner: Any = self.runner
        options = runner.environment.parsed_options
        after, length = time.perf_counter() - self.start_time, options.run_time or shapes.seconds(options.shape)
        share = shapes.share(options.shape, after, length)
        if share is not None:
            users = round(share * (options.num_users - 1)) + 1  # one is the yardstick
            return users, max(options.spawn_rate or 0, users)
        drain = DRAIN_SECONDS if isinstance(runner, MasterRunner) else 0
        if after < length + drain or (runner.user_count and after < length + options.stop_timeout):
            return 0, 100
        return None


def _positive(text: str) -> float:
    value = float(text)
    if value < 0:
        raise ValueError(text)
    return value


def add_options(parser: Any) -> None:
    """Add this project's options; those without `include_in_web_ui=False` are fields in the browser UI."""
    parser.add_argument("--shape", choices=sorted(shapes.SHAPES), default="steady", help="how the load goes over time")
    parser.add_argument(
        "--rate", type=_positive, default=0.0, help="open loop: arrivals per second at the peak; 0: closed loop"
    )
    parser.add_argument("--think", type=_positive, default=1.0, help="closed loop: mean seconds between a user's tasks")


def status(url: str) -> int:
    """Return the status that a GET of `url` answers, 0 for none at all."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # the host under test
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def prepare(environment: Any, **_: Any) -> None:
    """Find out at each start what the workers have to know."""
    options = environment.parsed_options

    def start(**_: Any) -> None:
        if not isinstance(environment.runner, WorkerRunner):
            options.peak = options.num_users or 1  # extra options go to the workers, Locust's own do not
            options.accounts = status(f"{environment.host}/auth/me") == 401  # noqa: PLR2004

    environment.events.test_start.add_listener(start)


for hook, listener in ((events.init_command_line_parser, add_options), (events.init, prepare)):
    hook.add_listener(listener)  # type: ignore[no-untyped-call] # Locust's event hooks are untyped
