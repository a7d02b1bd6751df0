"""Dynamic analysis: `python -m tooling.dast` starts the real service, attacks it and writes reports/dast/."""

import functools
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

from tooling import page
from tooling.dast import authorization, headers, log, schemathesis, wapiti
from tooling.dast.target import Target, attacked
from tooling.findings import Gate, NotAssessed, Scan, run_stage
from tooling.project import REPORTS


def matrix(target: Target) -> Scan:
    """Fill the authorization matrix and write it as a page of its own."""
    filled = authorization.Matrix(target)
    filled.run()
    (REPORTS / "dast").mkdir(parents=True, exist_ok=True)
    rows = {
        cell.operation: [other for other in filled.cells if other.operation == cell.operation] for cell in filled.cells
    }
    content = page.render("authorization.html", rows=rows, callers=authorization.CALLERS, target=target)
    (REPORTS / "dast" / "authorization.html").write_text(content)
    return filled.scan()


# The slow ones first: the stage takes as long as its longest queue.
GATES: dict[str, Callable[[Target], Scan]] = {
    "wapiti": wapiti.scan,
    "schemathesis": schemathesis.scan,
    "authorization": matrix,
    "headers": headers.scan,
    "log": log.scan,
}


def main() -> int:
    """Run the stage: all gates against one service, its log read last. 0 clean, 1 findings, 2 could not assess."""
    with TemporaryDirectory(prefix="dast-") as folder:
        try:
            with attacked(Path(folder)) as target:
                print(f"dast: attacking {target.url}, on {target.database}", flush=True)
                gates: dict[str, Gate] = {name: functools.partial(gate, target) for name, gate in GATES.items()}
                return run_stage("dast", gates, then={"log": gates.pop("log")})
        except NotAssessed as error:
            problem = error

            def service() -> NoReturn:
                raise problem

            return run_stage("dast", {"service": service})
