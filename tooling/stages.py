"""The pipeline's stages as Nox sessions: what each needs, and a record of how each went and how long it took.

Nox's own `requires` would run the needed stages again in every CI job; here a stage is skipped where one that it needs
failed in the same run. Only the standard library and Nox are imported: the noxfile works before any environment exists.
"""

import functools
import json
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import nox

ROOT = Path(__file__).parent.parent
REPORTS = ROOT / "reports"
FIRST = ROOT / ".cache" / "first-run"

NEEDS: dict[str, tuple[str, ...]] = {}
failed: set[str] = set()


def stage(*, needs: tuple[str, ...] = ()) -> Callable[[Callable[[nox.Session], None]], object]:
    """Make a function the Nox session of a stage. It is skipped where a stage of NEEDS has failed in this run."""

    def register(function: Callable[[nox.Session], None]) -> object:
        name = function.__name__
        NEEDS[name] = needs

        @functools.wraps(function)
        def run(session: nox.Session) -> None:
            shutil.rmtree(REPORTS / name, ignore_errors=True)
            started, result = time.monotonic(), "failed"
            write(name, "running", 0)
            try:
                if missing := sorted(failed.intersection(needs)):
                    result = "skipped"
                    session.skip(f"{' and '.join(missing)} failed")
                function(session)
                result = "passed"
            finally:
                if result != "passed":
                    failed.add(name)
                write(name, result, time.monotonic() - started)

        return nox.session(run)

    return register


def write(name: str, result: str, seconds: float) -> None:
    """Record how a stage went in reports/NAME/stage.json; the first time that it passes here is kept for comparison."""
    record = {"stage": name, "result": result, "seconds": round(seconds, 2), "ended": datetime.now(UTC).isoformat()}
    first = FIRST / f"{name}.json"
    if result == "passed" and not first.exists():
        FIRST.mkdir(parents=True, exist_ok=True)
        first.write_text(json.dumps(record))
    folder = REPORTS / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stage.json").write_text(json.dumps(record))
