"""The package as a new user has it: installed into an empty environment, with the README's example and plain bandit."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.index

PACKAGE = Path(__file__).parent.parent
EXAMPLE = re.findall(r"```python\n(.*?)```", (PACKAGE / "README.md").read_text(), re.DOTALL)[0]


def test_the_readmes_example_goes_red_and_a_scanner_that_is_switched_off_is_noticed(
    run_in_new_project: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    installed = run_in_new_project("pip", "install", "--quiet", str(PACKAGE), "bandit")
    assert installed.returncode == 0, installed.stderr
    assert list((tmp_path / "environment").glob("lib/*/site-packages/gate_canaries/py.typed"))

    canaries = tmp_path / "project" / "canaries.py"
    canaries.write_text(EXAMPLE)
    ran = run_in_new_project("python", "canaries.py", "--report", "canaries.json")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout == (
        "red, as it must be bandit: a shell that takes any string (B602 at planted.py)\ncanaries: 1 of 1 red\n"
    )
    assert json.loads((tmp_path / "project" / "canaries.json").read_text())["canaries"][0]["red"]
    assert not (tmp_path / "project" / "planted.py").exists()

    canaries.write_text(EXAMPLE.replace('"--quiet"', '"--quiet", "--skip=B602"'))
    ran = run_in_new_project("python", "canaries.py")
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "NOT CAUGHT bandit: a shell that takes any string" in ran.stdout
    assert "it reported: B404 at planted.py" in ran.stdout
