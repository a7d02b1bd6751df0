"""The pipeline's stages as Nox sessions: what each needs, and a record of how each went and how long it took.

Nox's own `requires` would run the needed stages again in every CI job. This decorator skips a stage where one that it
needs failed in the same run. Only the standard library and Nox are imported: the noxfile works before any environment
exists.
"""

import functools
import json
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime

import nox

from tooling.project import FIRST_RUNS, REPORTS, STAGES, source

failed: set[str] = set()


def stage(function: Callable[[nox.Session], None]) -> object:
    """Make a function the Nox session of the stage with its name. A stage is skipped where one that it needs failed."""
    name = function.__name__
    needs = STAGES[name].needs

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


def write(name: str, result: str, seconds: float) -> None:
    """Write a stage's result to reports/`name`/stage.json, and keep its first pass in this checkout for comparison."""
    ended = datetime.now(UTC).isoformat()
    record = {"stage": name, "result": result, "seconds": round(seconds, 2), "ended": ended, "source": source()}
    first = FIRST_RUNS / f"{name}.json"
    if result == "passed" and not first.exists():
        FIRST_RUNS.mkdir(parents=True, exist_ok=True)
        first.write_text(json.dumps(record))
    folder = REPORTS / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stage.json").write_text(json.dumps(record))
