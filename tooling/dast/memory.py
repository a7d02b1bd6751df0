"""Memory that the service keeps of each request: a process that leaks is killed at its limit, after hours or days.

A copy of the service gets rounds of requests that have a header, and half of them a path, of their own. Caches fill and
the allocator settles in the first rounds. What grows in each round after them grows for ever.
"""

import itertools
import secrets
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from urllib.parse import urlsplit

import httpx
import psutil

from tooling.dast.isolation import SAFE
from tooling.dast.sender import Sender
from tooling.dast.target import Operation, Target
from tooling.findings import Finding, NotAssessed, Scan, Severity
from tooling.service import ServiceError, running

REQUESTS = 500
"""Requests in a round."""

SETTLING, MEASURED = 2, 4
"""Rounds."""

HEADER, TEXT = "X-Request-Text", 2_048
"""Characters of the header that each request has for itself: a service that keeps requests keeps at least these."""

MOST = 1_024
"""Bytes that may stay of a request: less than its headers, more than the allocator's own noise."""


def processes(url: str) -> set[psutil.Process]:
    """Return the processes of the service at `url`: those that this one has started, and theirs, with its port.

    Raises `NotAssessed` where there is none.
    """
    port, matches = str(urlsplit(url).port), set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # another gate's, which has ended meanwhile
            if process.environ().get("PORT") == port:
                matches.add(process)
    if not matches:
        raise NotAssessed(f"no process has the service's port {port} in its environment")
    return matches


def used(service: set[psutil.Process]) -> int:
    """Return the bytes that the service's processes share with no other. Raises `NotAssessed` where one has ended."""
    try:
        return sum(process.memory_full_info().uss for process in service)
    except psutil.NoSuchProcess as error:
        raise NotAssessed(f"a process of the service has ended: {error}") from error


def repeatable(target: Target) -> list[Operation]:
    """Return the operations that can be requested for ever: those that read, and those that make what others read."""
    makers = [target.maker(operation)[0] for operation in target.operations if operation.method == "GET"]
    made = [maker for maker in makers if maker and str(HTTPStatus.CREATED.value) in maker.declared["responses"]]
    return [operation for operation in target.operations if operation.method in SAFE or operation in made]


def growth(target: Target, service: set[psutil.Process]) -> list[int]:
    """Return the bytes by which the service grows in each of the measured rounds."""
    sender = Sender.of(target, "memory")
    prepared = itertools.cycle([(operation, sender.prepared(operation)) for operation in repeatable(target)])
    sizes = []
    for _ in range(SETTLING + MEASURED):
        for _ in range(REQUESTS // 2):
            operation, request = next(prepared)
            own = secrets.token_hex(8)
            sender.send(operation, **request, headers={HEADER: (own + "x" * TEXT).encode()})
            target.client.get(f"/no-such-page/{own}", params={own: own}, headers={HEADER: own + "x" * TEXT})
        sizes.append(used(service))
    return [after - before for before, after in itertools.pairwise(sizes[SETTLING - 1 :])]


def scan(target: Target) -> Scan:
    """Return a finding where each measured round leaves more than `MOST` bytes of each of its requests."""
    version = str(target.document["info"]["version"])
    try:
        with running(
            {**target.copy, "LOG_LEVEL": "info"}, workers=1, program=target.program, service=target.service
        ) as url:
            grown = growth(replace(target, url=url), processes(url))
    except (ServiceError, httpx.HTTPError) as error:
        raise NotAssessed(f"the service cannot be measured: {error}") from error
    kept = min(grown) / REQUESTS
    rounds = ", ".join(f"{one / REQUESTS:.0f}" for one in grown)
    leak = Finding(
        tool="memory",
        rule="kept-for-ever",
        severity=Severity.MEDIUM,
        message=f"each request leaves {kept:.0f} bytes or more (in {MEASURED} rounds {rounds}): {MOST} may stay",
        path=target.service.path,
    )
    findings = (leak,) if kept > MOST else ()
    return Scan(tool="memory", version=version, targets=(target.service.name,), findings=findings)
