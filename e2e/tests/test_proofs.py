"""The record of a proof becomes its page, whatever seconds are in it."""

import json
from pathlib import Path

import yaml

from e2e.proofs import NIGHTLY, Phase, Proof
from locust_verdict import histogram
from locust_verdict.record import Recorder, Requests
from tooling.deploy.steps import Steps
from tooling.project import ROOT


def test_a_second_without_intended_starts_is_no_reason_to_have_no_page(tmp_path: Path) -> None:
    counted = histogram.new()
    histogram.record(counted, 12.0)
    encoded = histogram.encode(counted)
    with Recorder(tmp_path / "record.jsonl") as recorder:
        proof = Proof("name", "title", recorder, Steps("title"))
        recorder.run("title")
        recorder.write(Requests(100, "GET /tasks", 0, encoded, encoded))
        recorder.write(Requests(101, "GET /tasks", 0, encoded, ""))
        proof.phases = [Phase("phase", 100, 102)]
        proof.check("a claim", "measured", holds=True)
        assert proof.write(tmp_path)
    (phase,) = json.loads((tmp_path / "proof.json").read_text())["phases"]
    assert round(phase["p99_ms"]) == 12
    assert (tmp_path / "proof.html").exists()


def test_every_proof_that_is_not_run_by_default_is_run_every_night() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "proofs.yml").read_text())["jobs"]
    assert set(jobs["cluster"]["strategy"]["matrix"]["proof"]) == set(NIGHTLY)
