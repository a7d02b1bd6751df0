"""What a command must do to count as a gate that went red."""

import json
import sys
from pathlib import Path

import pytest

from gate_canaries import Finding, Outcome, command, lines, sarif

LINE = r"^(?P<path>.+?):(?P<line>\d+): (?P<rule>\w+) (?P<message>.*)$"


def program(output: str, status: int, error: str = "") -> list[str]:
    code = f"import sys; sys.stdout.write({output!r}); sys.stderr.write({error!r}); sys.exit({status})"
    return [sys.executable, "-c", code]


@pytest.mark.parametrize("path", ["planted.py", "./planted.py", "{folder}/planted.py"])
def test_a_failing_command_with_findings_is_red_and_its_paths_are_relative(tmp_path: Path, path: str) -> None:
    output = f"1 file\n{path.format(folder=tmp_path)}:5: B602 a shell\n"
    outcome = command(*program(output, 1), read=lines(LINE))(tmp_path)
    assert outcome == Outcome((Finding("B602", "planted.py", "a shell", 5),))
    assert outcome.findings[0].text == "B602 at planted.py:5: a shell"


def test_what_is_no_file_of_the_folder_keeps_its_name(tmp_path: Path) -> None:
    outcome = command(*program("/elsewhere/a.py:1: B602 a shell\n", 1), read=lines(LINE))(tmp_path)
    assert outcome.findings[0].path == "/elsewhere/a.py"


@pytest.mark.parametrize(
    ("output", "status", "problem"),
    [
        ("a.py:1: B602 a shell\n", 0, "ended with status 0 in spite of 1 findings, which fails no pipeline"),
        ("nothing\n", 1, "ended with status 1 and no finding: oh"),
        ("a.py:1: B602 a shell\n", 2, "ended with status 2: oh"),
    ],
)
def test_a_command_whose_status_and_findings_disagree_has_a_problem(
    tmp_path: Path, output: str, status: int, problem: str
) -> None:
    outcome = command(*program(output, status, error="well\nand\noh\n"), read=lines(LINE))(tmp_path)
    assert outcome.findings == ()
    assert outcome.problem == f"{sys.executable} {problem}"


def test_a_command_may_fail_by_another_status(tmp_path: Path) -> None:
    gate = command(*program("a.py:1: B602 a shell\n", 7), read=lines(LINE), failing=(7,))
    assert gate(tmp_path).findings


def test_a_clean_command_reports_nothing(tmp_path: Path) -> None:
    assert command(*program("fine\n", 0), read=lines(LINE))(tmp_path) == Outcome()


def test_a_pattern_without_the_groups_that_a_finding_needs_is_refused() -> None:
    with pytest.raises(ValueError, match="has no group path"):
        lines(r"(?P<rule>\w+)")


def test_sarif_is_read_without_what_is_suppressed() -> None:
    def result(**more: object) -> dict[str, object]:
        place = {"artifactLocation": {"uri": "a%20b.py"}, "region": {"startLine": 3}}
        return {"message": {"text": "m"}, "locations": [{"physicalLocation": place}], **more}

    results = [
        result(ruleId="B602"),
        result(ruleIndex=0, level="note"),
        result(ruleId="B1", suppressions=[{"kind": "inSource"}]),
        {"ruleId": "no place"},
    ]
    log = {"runs": [{"tool": {"driver": {"rules": [{"id": "B404"}]}}, "results": results}]}
    assert list(sarif(json.dumps(log))) == [
        Finding("B602", "a b.py", "m", 3),
        Finding("B404", "a b.py", "m", 3, blocks=False),
        Finding("no place", ""),
    ]
