"""No test file is left out of a run without a word."""

import shutil
import subprocess
import sys
from pathlib import Path

from tooling.project import ROOT


def test_a_test_file_that_another_one_hides_ends_the_run(tmp_path: Path) -> None:
    shutil.copy(ROOT / "conftest.py", tmp_path)
    for folder in ("a", "b"):
        tests = tmp_path / folder / "tests"
        tests.mkdir(parents=True)
        (tests / "__init__.py").touch()
        (tests / "test_same.py").write_text(f"def test_{folder}() -> None: ...\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--import-mode=importlib", "--collect-only"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 4
    assert "b/tests/test_same.py is hidden by" in ended.stderr
