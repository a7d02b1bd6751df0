"""Many hostile inputs over plain sockets: `nox -s fuzz -- --inputs 10000 --seed 20261126`.

The seed is today's date where none is named, so that each night sends other inputs, and any night can be repeated.
Exit status: 0 where every response is as it must be, 1 where one is not.
"""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from tooling.dast import raw_http
from tooling.dast.target import attacked
from tooling.project import services


def main() -> int:
    """Attack each service with `--inputs` inputs and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tooling.dast.fuzz")
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=int(f"{datetime.now(UTC):%Y%m%d}"))
    options = parser.parse_args()
    count = 0
    for service in services():
        with TemporaryDirectory(prefix="raw-http-") as folder, attacked(service, Path(folder)) as target:
            result = raw_http.scan(target, inputs=options.inputs, seconds=3600, seed=options.seed)
        print(f"{service.name}: {result.version}")
        for finding in result.findings:
            print(f"  {finding.rule}  {finding.path}  {finding.message}")
        count += len(result.findings)
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
