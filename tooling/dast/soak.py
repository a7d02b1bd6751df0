"""Many hostile inputs over plain sockets: `python -m tooling.dast.soak --inputs 10000 --seed 1`.

Exit status: 0 where every answer is as it must be, 1 where one is not.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tooling.dast import raw_http
from tooling.dast.target import attacked
from tooling.project import services


def main() -> int:
    """Attack each service with `--inputs` inputs and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tooling.dast.soak")
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=raw_http.SEED)
    options = parser.parse_args()
    found = 0
    for service in services():
        with TemporaryDirectory(prefix="raw-http-") as folder, attacked(service, Path(folder)) as target:
            result = raw_http.scan(target, inputs=options.inputs, seconds=3600, seed=options.seed)
        print(f"{service.name}: {result.version}")
        for finding in result.findings:
            print(f"  {finding.rule}  {finding.path}  {finding.message}")
        found += len(result.findings)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
