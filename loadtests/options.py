"""Load tests: `invoke load`. Options not listed here go to Locust, such as `--processes 4`. See also `hpa --help`.

Exit status: 0 pass, 1 fail, 2 inconclusive or could not run; with --against 1 means slower.
"""

import argparse
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from loadtests import shapes
from tooling.project import REPORTS

OBJECTIVES = Path(__file__).parent / "objectives.yaml"


def base_url(text: str) -> str:
    """Return the URL without a slash at its end. Raises `ArgumentTypeError` where a scheme or a host is missing."""
    try:
        parts = urlsplit(text)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise argparse.ArgumentTypeError(f"{text!r} is not a base URL such as http://127.0.0.1:5000")
    return text.rstrip("/")


def taken(port: int) -> bool:
    """Return whether another program listens on this port of loopback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse the command line; return the options, and the arguments for Locust."""
    parser = argparse.ArgumentParser(prog="load", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--host", type=base_url, help="base URL; without it the service is started here, with two workers"
    )
    parser.add_argument("--shape", choices=sorted(shapes.SHAPES), default="steady", help="how the load goes over time")
    parser.add_argument("--users", type=int, default=20, help="users at the peak (20)")
    parser.add_argument("--rate", type=float, default=0, help="open loop: arrivals per second at the peak")
    parser.add_argument("--run-time", help="stretch the shape to this length, such as 90s or 10m")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--headless", action="store_true", help="run now, judge, exit")
    how.add_argument("--browser", action="store_true", help="open the browser UI")
    parser.add_argument(
        "--attempts", type=int, default=1, help="with --headless: runs while the verdict is inconclusive"
    )
    parser.add_argument("--cluster", metavar="CONTEXT", help="watch the deployment and its HPA by this kubectl context")
    parser.add_argument("--web-port", type=int, default=8089, help="the browser UI's port on loopback (8089)")
    parser.add_argument("--objectives", type=Path, default=OBJECTIVES, help="what the run has to hold")
    parser.add_argument("--output", type=Path, help="folder for record and page (reports/load/<time>-<shape>)")
    parser.add_argument("--against", metavar="REF", help="compare this checkout with another version, by turns")
    parser.add_argument("--pairs", type=int, default=12, help="pairs of turns with --against (12)")
    parser.add_argument("--replay", metavar="FILE", type=Path, nargs="+", help="draw records again, over each other")
    options, rest = parser.parse_known_args(arguments)
    if not (options.headless or options.browser or options.against or options.replay):
        parser.error("one of --headless, --browser, --against or --replay is needed")
    if options.users < 2:  # noqa: PLR2004
        parser.error("--users must be 2 or more: one user measures the reference endpoint")
    if options.browser and taken(options.web_port):
        parser.error(f"port {options.web_port} of 127.0.0.1 is taken: choose another one by --web-port")
    options.output = options.output or REPORTS / "load" / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{options.shape}"
    return options, rest
