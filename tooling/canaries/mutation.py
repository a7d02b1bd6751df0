"""Planted defects for the session mutation: an area whose tests are weak, and areas whose tests prove nothing."""

from pathlib import Path

from tooling.canaries import canary
from tooling.canaries.fixtures import plant
from tooling.findings import Scan
from tooling.mutation import AREAS, Area, assess

RULE = "def grown_up(age: int) -> bool:\n    return age >= 18\n"
AT_ITS_BOUND = (
    "from rule import grown_up\n\ndef test_ages():\n    assert (grown_up(17), grown_up(18)) == (False, True)\n"
)
FAR_FROM_IT = AT_ITS_BOUND.replace("17", "1").replace("grown_up(18)", "grown_up(80)")
WITHOUT_IT = "def test_nothing():\n    assert True\n"
SETTINGS = "[pytest]\naddopts = -p no:anyio -p no:locust -p no:schemathesis -p no:xdist\n"  # slow to load


def judged(folder: Path, area: str, tests: str, rule: str = RULE) -> Scan:
    """Judge an area of one rule with these tests of it, under the name of one of this repository's."""
    for name, content in (("rule.py", rule), ("test_rule.py", tests), ("pytest.ini", SETTINGS)):
        plant(folder, name, content)
    return assess(area, Area(("rule.py",), ("test_rule.py",)), folder, workers=1)


for _area in AREAS:

    @canary(f"mutation/{_area}", "tests that no longer try a rule at its bound", rule="weak-tests", path=_area)
    def weakened(folder: Path, area: str = _area) -> Scan:
        return judged(folder, area, FAR_FROM_IT)


@canary("mutation/gates", "tests that fail for every defect, and without one", problem="fail without any defect")
def failing(folder: Path) -> Scan:
    return judged(folder, "gates", AT_ITS_BOUND, RULE.replace(">=", ">"))


@canary("mutation/gates", "tests that do not run the rule", problem="passes without rule.py")
def elsewhere(folder: Path) -> Scan:
    return judged(folder, "gates", WITHOUT_IT)
