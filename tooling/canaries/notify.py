"""Planted defects for the notify stage."""

from pathlib import Path

from tooling import notify
from tooling.canaries import canary
from tooling.canaries.fixtures import answering
from tooling.findings import Scan


@canary("notify/webhook", "a webhook that is not there", problem="was not reached: ConnectError")
def nobody_listens(folder: Path) -> Scan:  # noqa: ARG001 - a canary's shape
    return notify.deliver("http://127.0.0.1:9/hook", {}, attempts=2)


@canary("notify/webhook", "a webhook that refuses", problem="answered 500")
def refused(folder: Path) -> Scan:  # noqa: ARG001
    with answering({}, status=500) as url:
        return notify.deliver(f"{url}/hook", {}, attempts=2)
