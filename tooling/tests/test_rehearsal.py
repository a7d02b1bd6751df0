"""The rehearsal's table is whole, and its stand-ins refuse what GitHub refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tooling.project import ROOT
from tooling.rehearsal import __main__ as rehearsal

EVENTS, FAULTS = rehearsal.read()
STANDIN = ROOT / "tooling" / "rehearsal" / "standin.py"


def workflow(name: str) -> dict[str, object]:
    jobs: dict[str, object] = yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text())["jobs"]
    return jobs


def test_every_workflow_is_rehearsed_and_every_job_of_it_has_an_expected_result() -> None:
    assert {event.workflow for event in EVENTS} == {path.name for path in (ROOT / ".github" / "workflows").iterdir()}
    for event in EVENTS:
        jobs = {name for name, job in workflow(event.workflow).items() if "steps" in dict(job)}  # type: ignore[call-overload]
        if event.workflow == "release.yml":
            jobs |= set(workflow("pipeline.yml"))
        assert set(event.jobs) == jobs, event.name
        assert set(event.jobs.values()) <= {"success", "failure", "skipped"}


def test_every_fault_can_be_put_in_and_has_its_event() -> None:
    for fault in FAULTS:
        assert fault.find in (ROOT / fault.file).read_text()
        assert fault.event in {event.name for event in EVENTS}
    assert any(fault.part for fault in FAULTS)
    assert {event.workflow for event in EVENTS if event.part} == {"pipeline.yml", "release.yml"}


def test_no_called_workflow_needs_more_rights_than_its_caller_has() -> None:
    assert rehearsal.permissions(ROOT)["publish"]["packages"] == "write"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "permissions.json").write_text(json.dumps({"scan": {"contents": "read", "security-events": "write"}}))
    return tmp_path


def stand_in(home: Path, action: str, *, fork: bool = False, private: bool = False, **arguments: str) -> str:
    """Run a stand-in as the job `scan`; return its error, empty where it succeeds."""
    (home / "event.json").write_text(json.dumps({"fork": fork, "private": private, "paid": False}))
    inputs = {
        f"ACTION_INPUT_{name.replace('_', '-') if name != 'sarif_file' else name}": value
        for name, value in arguments.items()
    }
    environment = {**os.environ, "REHEARSAL": str(home), "GITHUB_JOB": "scan", **inputs}
    done = subprocess.run(
        [sys.executable, STANDIN, action], cwd=home, env=environment, check=False, capture_output=True, text=True
    )
    return done.stderr if done.returncode else ""


def test_findings_are_taken_where_code_scanning_is_on_and_the_token_may_write(home: Path) -> None:
    (home / "report.sarif").write_text("{}")
    upload = "github/codeql-action/upload-sarif"
    assert stand_in(home, upload, sarif_file="report.sarif") == ""
    assert "may not write security-events" in stand_in(home, upload, sarif_file="report.sarif", fork=True)
    assert "lacks actions: read" in stand_in(home, upload, sarif_file="report.sarif", private=True)
    assert "lacks packages: read" in stand_in(home, "docker/login-action")


def test_an_artifact_has_its_name_alone_and_a_single_one_comes_back_flat(home: Path) -> None:
    (home / "reports").mkdir()
    (home / "reports" / "a.txt").touch()
    assert stand_in(home, "actions/upload-artifact", name="build", path="reports") == ""
    assert "already exists" in stand_in(home, "actions/upload-artifact", name="build", path="reports")
    assert stand_in(home, "actions/download-artifact", pattern="{build,image}*", path="flat") == ""
    assert (home / "flat" / "a.txt").exists()
    assert stand_in(home, "actions/upload-artifact", name="image", path="reports") == ""
    assert stand_in(home, "actions/upload-artifact", name="other", path="reports") == ""
    assert stand_in(home, "actions/download-artifact", pattern="{build,image}*", path="several") == ""
    assert sorted(path.name for path in (home / "several").iterdir()) == ["build", "image"]
