"""Whether clients that are slow, idle or read a stream slow down the others: P95 with 1,200 of them, and without.

`nox -s load_canaries` runs it. Rounds with and without them take turns on one service. Exit status: 0 where the ratio
keeps its bound, 1 where it does not, 2 where this machine is too busy to measure.
"""

import argparse
import contextlib
import itertools
import math
import resource
import select
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from tooling.project import ROOT
from tooling.service import running

BOUND = 1.5
"""P95 with the slow clients, as a multiple of P95 without."""

NOISE = 2.5
"""Rounds without slow clients whose P95s differ by more than this prove nothing."""

KINDS = ("idle", "trickling", "not reading", "streaming")
TRICKLED = b"POST /tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n" + b" " * 1000
UNREAD = b"GET /docs/swagger_bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
STREAM = b"GET /tasks/changes HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
FEWEST = 20
"""Requests of a round, below which there is no P95."""

PAUSE = 0.02
TIMEOUT = 5.0


class SlowClient:
    """A client that is slow in its own way, and stubborn: it comes back when the service closes its connection."""

    def __init__(self, port: int, kind: str) -> None:
        self.port = port
        self.kind = kind
        self.connection: socket.socket | None = None
        self.sent = 0

    def connect(self) -> None:
        """Connect; clients that do not read, or follow the changes, send their request at once."""
        self.connection = socket.socket()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.connection.settimeout(TIMEOUT)
        self.connection.connect(("127.0.0.1", self.port))
        self.connection.setblocking(False)
        self.sent = 0
        if self.kind == "not reading":
            self.connection.send(UNREAD)
        elif self.kind == "streaming":
            self.connection.send(STREAM)

    def act(self) -> None:
        """Do what it does once a second."""
        try:
            if self.connection is None:
                self.connect()
            elif self.kind == "trickling":
                self.connection.send(TRICKLED[self.sent : self.sent + 1])
                self.sent += 1
            elif self.kind in {"idle", "streaming"} and not self.connection.recv(1 << 16):
                raise ConnectionResetError
        except BlockingIOError:
            pass
        except OSError:
            if self.connection:
                self.connection.close()
            self.connection = None


def hold(port: int, counts: Sequence[int]) -> None:
    """Hold `counts` connections, a number for each kind, until standard input closes."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    clients = [SlowClient(port, kind) for kind, count in zip(KINDS, counts, strict=True) for _ in range(count)]
    ended = select.poll()
    ended.register(sys.stdin, select.POLLIN | select.POLLHUP)
    for turn in itertools.count():
        for client in clients:
            client.act()
        if not turn:
            print("held", flush=True)
        if ended.poll(1000):
            return


@contextlib.contextmanager
def slow_clients(port: int, counts: Sequence[int]) -> Iterator[None]:
    """Hold the slow clients from a process of their own for as long as the block."""
    command = [sys.executable, "-m", "loadtests.slow_clients", "--hold", str(port), *map(str, counts)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        yield
        process.stdin.close()


def p95(port: int, seconds: float) -> float:
    """P95 in milliseconds of a client that lists tasks at an even pace; infinite where one is not answered."""
    taken = []
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        began = time.perf_counter()
        try:
            connection.request("GET", "/tasks?limit=20")
            response = connection.getresponse()
            response.read()
        except (OSError, HTTPException):
            return math.inf
        if response.status != 200:  # noqa: PLR2004
            return math.inf
        taken.append((time.perf_counter() - began) * 1000)
        time.sleep(PAUSE)
    connection.close()
    return statistics.quantiles(taken, n=20)[-1] if len(taken) >= FEWEST else math.inf


def settle(port: int) -> None:
    """Wait until the slow clients have all come in: how they come is no part of what is measured."""
    for _ in range(3):
        with contextlib.suppress(OSError, HTTPException):
            connection = HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("GET", "/livez")
            connection.getresponse().read()
            connection.close()
        time.sleep(1)


def judge(without: Sequence[float], with_them: Sequence[float]) -> tuple[int, str]:
    """Return the exit status and its reason in one sentence."""
    if not all(map(math.isfinite, without)):
        return 2, "inconclusive: this machine is too busy for the service to answer even without them"
    noise = max(without) / min(without)
    ratio = statistics.median(beside / alone for beside, alone in zip(with_them, without, strict=True))
    figures = (
        f"P95 {statistics.median(with_them):.1f} ms with them, {statistics.median(without):.1f} ms without:"
        f" {ratio:.2f} times in the median round, at most {BOUND}"
    )
    if ratio <= BOUND:
        return 0, figures
    if noise > NOISE and math.isfinite(ratio):
        return 2, f"inconclusive: {figures}, but without them P95 alone went from 1 to {noise:.1f} times"
    return 1, figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure in rounds, and judge."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.slow_clients", description=__doc__)
    parser.add_argument("--hold", type=int, nargs=5, metavar="N", help=argparse.SUPPRESS)
    parser.add_argument(
        "--clients",
        type=int,
        nargs=4,
        default=(400, 400, 200, 200),
        metavar=("IDLE", "TRICKLING", "UNREADING", "STREAMING"),
    )
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=4, help="of one round")
    parser.add_argument("--log", type=Path, help="where the service's log goes")
    options = parser.parse_args(arguments)
    if options.hold:
        hold(options.hold[0], options.hold[1:])
        return 0
    without, with_them = [], []
    with running({"RATE_LIMIT": "off", "LOG_LEVEL": "warning", "STREAMS": "1000"}, workers=2, log=options.log) as url:
        port = urlsplit(url).port or 0
        p95(port, 1)
        for number in range(options.rounds):
            without.append(p95(port, options.seconds))
            with slow_clients(port, options.clients):
                settle(port)
                with_them.append(p95(port, options.seconds))
            time.sleep(1)
            print(f"round {number + 1}/{options.rounds}: P95 {without[-1]:.1f} ms, {with_them[-1]:.1f} ms", flush=True)
    status, sentence = judge(without, with_them)
    print(f"{sum(options.clients)} slow clients: {sentence}")
    return status


if __name__ == "__main__":
    sys.exit(main())
