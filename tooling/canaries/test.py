"""Planted defects for the test stage."""

from pathlib import Path

from tooling import check
from tooling.baseline import Baseline
from tooling.canaries import canary
from tooling.canaries.fixtures import plant
from tooling.findings import Scan, held

SETTINGS = """
[tool.ruff.lint]
select = ["ALL"]
[tool.mypy]
strict = true
files = ["planted.py"]
[tool.coverage.run]
branch = true
source = ["planted"]
[tool.coverage.report]
fail_under = 97
"""
CODE = '''"""Planted."""


def larger(a: int, b: int) -> int:
    """Return the larger one."""
    if a > b:
        return a
    return b
'''
BOTH_WAYS = "from planted import larger\n\n\ndef test_larger():\n    assert (larger(1, 2), larger(2, 1)) == (2, 2)\n"


def project(folder: Path, code: str = CODE, tests: str = BOTH_WAYS) -> Path:
    """Make a small project with a module, its tests and settings like this repository's."""
    plant(folder, "pyproject.toml", SETTINGS)
    plant(folder, "planted.py", code)
    plant(folder, "test_planted.py", tests)
    return folder


WRONG = CODE.replace("a > b", "a < b")
NO_TESTS = "import planted\n\nplanted.larger(1, 2), planted.larger(2, 1)\n"


@canary("test/service-tests", "a rule of the service that is wrong", rule="failed-test", path="test_planted.py")
def wrong_rule(folder: Path) -> Scan:
    return check.run_measured_tests(project(folder, WRONG), "-q", output=folder / "report")


@canary("test/service-tests", "a branch that no test takes any more", rule="coverage", path="pyproject.toml")
def coverage_drop(folder: Path) -> Scan:
    untaken = BOTH_WAYS.replace("2, 1", "1, 2")
    return check.run_measured_tests(project(folder, tests=untaken), "-q", output=folder / "report")


@canary("test/service-tests", "no test of the service", problem="no failed test explains it")
def no_service_tests(folder: Path) -> Scan:
    return check.run_measured_tests(project(folder, tests=NO_TESTS), "-q", output=folder / "report")


@canary("test/road-tests", "a rule of the road that is wrong", rule="failed-test", path="test_planted.py")
def wrong_rule_of_the_road(folder: Path) -> Scan:
    return check.run_tests(project(folder, WRONG), "-q", output=folder / "report")


@canary("test/road-tests", "no test of the road", problem="no failed test explains it")
def no_road_tests(folder: Path) -> Scan:
    return check.run_tests(project(folder, tests=NO_TESTS), "-q", output=folder / "report")


SKIPPED = """import pytest


@pytest.mark.parametrize("number", [1, pytest.param(2, marks=pytest.mark.skip(reason="later"))])
def test_number(number):
    assert number
"""


@canary("test/service-tests", "a skipped case of a test of the service", rule="skipped-test", path="test_planted.py")
def skipped_case(folder: Path) -> Scan:
    return check.run_measured_tests(project(folder, tests=BOTH_WAYS + SKIPPED), "-q", output=folder / "report")


@canary("test/road-tests", "a skipped case of a test of the road", rule="skipped-test", path="test_planted.py")
def skipped_case_of_the_road(folder: Path) -> Scan:
    return check.run_tests(project(folder, tests=BOTH_WAYS + SKIPPED), "-q", output=folder / "report")


@canary("test/baseline", "a test that is gone", rule="fewer-tests", path="test_planted.py")
def test_gone(folder: Path) -> Scan:
    scan = check.run_tests(project(folder), "-q", output=folder / "report")
    return held("test", [scan], Baseline(tests={"test_planted.py": 2}))


@canary("test/types", "a number returned where a text is promised", rule="return-value", path="planted.py")
def wrong_type(folder: Path) -> Scan:
    return check.types(project(folder, CODE.replace("-> int", "-> str")))


@canary("test/lint", "an import that nothing uses", rule="F401", path="planted.py")
def unused_import(folder: Path) -> Scan:
    return check.lint(project(folder, CODE.replace('"""Planted."""\n', '"""Planted."""\n\nimport os\n')))


@canary("test/format", "a line that is not as the formatter writes it", rule="unformatted", path="planted.py")
def unformatted(folder: Path) -> Scan:
    return check.formatting(project(folder, CODE.replace("a > b", "a>b")))


LAYERS = """
[tool.importlinter]
root_packages = ["lower", "upper"]

[[tool.importlinter.contracts]]
name = "layers"
type = "layers"
layers = ["upper", "lower"]
"""


@canary("test/imports", "a lower layer that imports an upper one", rule="forbidden-import", path="lower")
def upward_import(folder: Path) -> Scan:
    plant(folder, "pyproject.toml", LAYERS)
    plant(folder, "upper/__init__.py", "")
    plant(folder, "lower/__init__.py", "import upper\n")
    return check.imports(folder)


@canary("test/imports", "contracts about a package that is not there", problem="import-linter broke")
def no_package(folder: Path) -> Scan:
    plant(folder, "pyproject.toml", LAYERS.replace("upper", "nowhere"))
    plant(folder, "lower/__init__.py", "")
    return check.imports(folder)
