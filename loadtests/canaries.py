"""The load gate's canaries: for each verdict a service that deserves it, and a check of the verdict and its reason.

`nox -s load_canaries`; exit status 0 when every canary was caught, 1 otherwise.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from rich.console import Console
from rich.table import Table

from loadtests.faults import SETTINGS, Faults
from loadtests.options import parse
from loadtests.run import locust, target
from locust_verdict.gate import GateResult, Outcome, judge
from locust_verdict.objectives import GeneratorLimits, Limits, Objectives
from locust_verdict.record import read
from tooling.project import ROOT
from tooling.service import free_port, listening

READ = "GET /tasks/<int:task_id>"
OBJECTIVES = Objectives(
    all=Limits(error_percent=0.3, min_requests=300),
    endpoints={READ: Limits(p95_ms=600)},
    warmup_seconds=3,
    generator=GeneratorLimits(lag_p95_ms=200),  # the faults are far larger
)
RUN = ["--headless", "--users=20", "--run-time=25s"]
OPEN_LOOP = "--rate=60"
ATTEMPTS = 3  # while a noisy machine leaves the verdict open, as the gate itself does
MISSED = 3  # times: what the closed loop has to overlook


@dataclass(frozen=True)
class Canary:
    """A defect, the verdict it deserves, and a word that the reason has to contain."""

    defect: str
    faults: Faults
    outcome: Outcome
    reason: str
    arguments: tuple[str, ...] = (OPEN_LOOP,)
    holds: Callable[[GateResult], bool] = lambda _: True


def _milliseconds(verdict: GateResult, kind: str) -> float:
    row = next((row for row in verdict.summaries if row.endpoint == READ), None)
    value = getattr(row, kind) if row else None
    return float("nan") if value is None else float(value)


CANARIES = [
    Canary("none: the healthy service passes", Faults(), Outcome.PASS, ""),
    Canary(
        "one endpoint takes 1.2 s longer",
        Faults(slow_prefix="/tasks/", slow_seconds=1.2),
        Outcome.FAIL,
        f"{READ}: P95",
    ),
    Canary("1 % of the requests fail", Faults(error_every=100), Outcome.FAIL, "requests failed"),
    Canary(
        "the server stalls for 5 seconds: seen by the open loop",
        Faults(stall_after=8, stall_seconds=5),
        Outcome.FAIL,
        f"{READ}: P95",
        holds=lambda verdict: _milliseconds(verdict, "intended_p95") > MISSED * _milliseconds(verdict, "p95"),
    ),
    Canary(
        "the same stall: overlooked by the closed loop",
        Faults(stall_after=8, stall_seconds=5),
        Outcome.PASS,
        "",
        ("--users=10", "--think=0.15"),
    ),
    Canary(
        "nobody calls the endpoint", Faults(), Outcome.INCONCLUSIVE, "too few requests: 0", ("--users=2", "--think=900")
    ),
]


@contextmanager
def faulty(upstream: str, faults: Faults, folder: Path) -> Iterator[str]:
    """Run a proxy with faults in front of a service, and yield its base URL."""
    port = free_port()
    command = ["gunicorn", "--bind", f"127.0.0.1:{port}", "--threads", "64", "loadtests.faults:application()"]
    settings = msgspec.json.encode(msgspec.structs.replace(faults, upstream=upstream)).decode()
    environment = {SETTINGS: settings, "PYTHONPATH": str(ROOT)}
    url = f"http://127.0.0.1:{port}"
    with listening([sys.executable, "-m", *command], environment, ready=f"{url}/livez", log=folder / "proxy.log"):
        yield url


def fly(canary: Canary, service: str, folder: Path) -> GateResult:
    """Load the service with the canary's faults, and judge."""
    folder.mkdir()
    options, rest = parse([*RUN, *canary.arguments])
    with faulty(service, canary.faults, folder) as url:
        locust(url, folder / "record.jsonl", options, rest)
    return judge(OBJECTIVES, read(folder / "record.jsonl"))


def main() -> int:
    """Run every canary and return the exit status."""
    table = Table("defect", "expected", "verdict", "reasons", "")
    caught = 0
    with TemporaryDirectory(prefix="load-canaries-") as name, target(None) as service:
        for number, canary in enumerate(CANARIES):
            print(f"{number + 1} of {len(CANARIES)}: {canary.defect}", flush=True)
            for attempt in range(ATTEMPTS):
                verdict = fly(canary, service, Path(name) / f"{number}-{attempt}")
                if verdict.outcome is not Outcome.INCONCLUSIVE or canary.outcome is Outcome.INCONCLUSIVE:
                    break
            reasons = "\n".join(verdict.reasons)
            right = verdict.outcome is canary.outcome and canary.reason in reasons and canary.holds(verdict)
            caught += right
            sent, intended = (_milliseconds(verdict, kind) for kind in ("p95", "intended_p95"))
            seen = f"P95 {sent:.0f} ms, from the intended start {intended:.0f} ms"
            table.add_row(
                canary.defect, canary.outcome, verdict.outcome, f"{reasons}\n{seen}", "yes" if right else "NO"
            )
    Console(width=None if sys.stdout.isatty() else 150).print(table)
    return 0 if caught == len(CANARIES) else 1


if __name__ == "__main__":
    sys.exit(main())
