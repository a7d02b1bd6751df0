"""The steps of `.ci/run`: one that fails ends the run, and one that depends on timings is repeated once."""

import subprocess
from pathlib import Path

import pytest

from tooling.project import ROOT

FUNCTIONS = (ROOT / ".ci" / "run").read_text().partition("\nstep ")[0]


@pytest.mark.parametrize(
    ("steps", "code", "tries"),
    [
        ("step attempt 0", 0, 1),
        ("step attempt 1", 1, 1),
        ("twice attempt 0", 0, 1),
        ("twice attempt 1", 0, 2),
        ("twice attempt 2", 1, 2),
    ],
)
def test_a_run_ends_at_a_step_that_fails_and_repeats_one_that_may(
    tmp_path: Path, steps: str, code: int, tries: int
) -> None:
    attempt = f'attempt() {{ echo try >> {tmp_path}/tries; [ "$(wc -l < {tmp_path}/tries)" -gt "$1" ]; }}'
    script = FUNCTIONS.replace('cd "$(dirname "$0")/.."', attempt) + f"\n{steps}\n"
    done = subprocess.run(["bash", "-c", script], check=False, capture_output=True, text=True)
    assert (done.returncode, (tmp_path / "tries").read_text().count("try")) == (code, tries), done.stderr
