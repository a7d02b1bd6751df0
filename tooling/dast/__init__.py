"""Dynamic analysis: `python -m tooling.dast` runs each service, attacks it and writes reports/dast/."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

import msgspec

from tooling import page
from tooling.dast import (
    authorization,
    compatibility,
    header_values,
    headers,
    isolation,
    log,
    memory,
    raw_http,
    routes,
    schemathesis,
    series,
    spectral,
    wapiti,
)
from tooling.dast.target import Target, attacked
from tooling.findings import NotAssessed, Scan, for_each, run_stage
from tooling.project import REPORTS, Service, services


def matrix(target: Target) -> Scan:
    """Fill the authorization matrix, write it as a page of its own, and see that accounts are isolated."""
    if not target.service.accounts:
        return authorization.unguarded(target)
    filled = authorization.Matrix(target)
    filled.run()
    (REPORTS / "dast").mkdir(parents=True, exist_ok=True)
    rows = {
        cell.operation: [other for other in filled.cells if other.operation == cell.operation] for cell in filled.cells
    }
    content = page.render("authorization.html", rows=rows, callers=authorization.callers(target), target=target)
    (REPORTS / "dast" / f"{target.service.name}-authorization.html").write_text(content)
    called, isolated = filled.scan(), isolation.Isolation(target).scan()
    return msgspec.structs.replace(
        called, targets=called.targets + isolated.targets, findings=called.findings + isolated.findings
    )


# The slow ones first: the stage takes as long as its longest queue.
GATES: dict[str, Callable[[Target], Scan]] = {
    "wapiti": wapiti.scan,
    "schemathesis": schemathesis.scan,
    "authorization": matrix,
    "raw_http": raw_http.scan,
    "header_values": header_values.scan,
    "headers": headers.scan,
    "series": series.scan,
    "memory": memory.scan,
    "spectral": spectral.scan,
    "compatibility": compatibility.scan,
    "routes": routes.scan,
    "log": log.scan,
}


def main() -> int:
    """Run the stage: every gate attacks each service; the logs are read last. 0 clean, 1 findings, 2 not assessed."""
    targets: dict[str, Target] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="dast-")))
        try:
            for service in services():
                target = targets[service.name] = stack.enter_context(attacked(service, folder))
                print(f"dast: attacking {service.name} at {target.url}, {target.database}", flush=True)
        except NotAssessed as error:
            problem = error

            def start() -> NoReturn:
                raise problem

            return run_stage("dast", {"start": start}, whole=False)
        gates = {name: for_each(services(), partial(_of, targets, gate)) for name, gate in GATES.items()}
        return run_stage("dast", gates, then={"log": gates.pop("log")})


def _of(targets: dict[str, Target], gate: Callable[[Target], Scan], service: Service) -> Scan:
    return gate(targets[service.name])
