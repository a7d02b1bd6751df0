"""The gate on mutants, in a project of one function."""

from pathlib import Path

import pytest

from tooling import mutation
from tooling.findings import NOT_ASSESSED, NotAssessed, Scan
from tooling.mutation import Area, assess, mutants
from tooling.project import ROOT

CODE = '''\
"""Version 2 of 3."""

from functools import lru_cache
from typing import TypedDict

ADULT = 18

class Person(TypedDict, total=False):
    age: int

@lru_cache(4)
def grown_up(age: int | None, limit: int = 18) -> bool:
    return age is not None and age >= 18
'''
WEAK = "from rules import grown_up\n\ndef test_some_ages():\n    assert grown_up(40)\n    assert not grown_up(None)\n"
STRONG = WEAK + "    assert grown_up(18)\n    assert not grown_up(17)\n"


SETTINGS = "[pytest]\naddopts = -p no:anyio -p no:locust -p no:schemathesis -p no:xdist\n"  # slow to load


def judged(folder: Path, tests: str, workers: int = 1) -> Scan:
    for name, content in (("rules.py", CODE), ("test_rules.py", tests), ("pytest.ini", SETTINGS)):
        (folder / name).write_text(content)
    return assess("rules", Area(("rules.py",), ("test_rules.py",)), folder, workers)


def test_each_mutant_is_one_plausible_defect_and_none_is_of_a_declaration(tmp_path: Path) -> None:
    (tmp_path / "rules.py").write_text(CODE)
    made = mutants(tmp_path, "rules.py")
    after = {one.change.partition(" -> ")[2].removeprefix("return ") for one in made}
    assert {one.line for one in made} == {13}
    assert after >= {
        "age is None and age >= 18",
        "age is not None or age >= 18",
        "age is not None and age > 18",
        "age is not None and age >= 19",
    }


def test_tests_that_no_longer_fail_for_a_defect_are_a_finding_with_each_survivor(tmp_path: Path) -> None:
    scan = judged(tmp_path, WEAK)
    survivors = [one for one in scan.findings if one.rule == "survivor"]
    assert {one.place for one in survivors} == {"rules.py:13"}
    assert any(one.message.endswith("age > 18") for one in survivors)
    assert not any(one.blocks for one in survivors)
    (weak,) = (one for one in scan.findings if one.blocks)
    assert (weak.rule, weak.path) == ("weak-tests", "rules")
    assert weak.message.startswith(f"{len(survivors)} of ")


def test_tests_that_fail_for_every_defect_are_clean(tmp_path: Path) -> None:
    scan = judged(tmp_path, STRONG)
    assert not scan.findings
    assert scan.targets == (f"{len(mutants(tmp_path, 'rules.py'))} mutants",)
    assert (tmp_path / "rules.py").read_text() == CODE


def test_several_copies_judge_as_one_does(tmp_path: Path) -> None:
    assert judged(tmp_path, WEAK, workers=3).findings == judged(tmp_path, WEAK).findings


def test_no_code_is_written_at_a_second_of_other_code_for_which_python_keeps_byte_code(tmp_path: Path) -> None:
    file = tmp_path / "rules.py"
    file.write_text("A = 1\n")
    seconds = [int(file.stat().st_mtime)]
    for code in ("A = 2\n", "A = 3\n", "A = 4\n"):
        with mutation.replaced(file, code):
            seconds.append(int(file.stat().st_mtime))
        seconds.append(int(file.stat().st_mtime))
    assert len(set(seconds)) == len(seconds)


def test_tests_that_fail_without_a_defect_prove_nothing(tmp_path: Path) -> None:
    with pytest.raises(NotAssessed, match=r"fail without any defect: run `pytest test_rules\.py`"):
        judged(tmp_path, WEAK.replace("grown_up(40)", "grown_up(4)"))


def test_tests_that_do_not_run_the_code_prove_nothing(tmp_path: Path) -> None:
    with pytest.raises(NotAssessed, match=r"test_rules.py passes without rules.py"):
        judged(tmp_path, "def test_nothing_of_it():\n    assert sum([1, 2]) == 3\n")


def test_an_unknown_area_is_one_line_with_those_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert mutation.main(["recurence"]) == NOT_ASSESSED
    assert "there is no area recurence: the areas are hpa, " in capsys.readouterr().err


def test_every_area_is_of_files_that_exist() -> None:
    for area in mutation.AREAS.values():
        places = [*area.modules, *(one for one in area.tests if one.endswith(".py"))]
        assert [one for one in places if not (ROOT / one).is_file()] == []
