"""Replay a flight record's autoscaling decisions, and simulate other settings.

Replay: at each sync the controller made, the simulator gets what the controller saw; both decisions are compared.
What if: the load of the record meets simulated pods under other settings, or many times the load.

`invoke hpa [--record FILE] [--what-if cpu=60,max=20,load=10]`. Exit status 0; 1 when the replay matches fewer than
90 % of the decisions; 2 when the record holds nothing to replay.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from loadtests import timeline
from loadtests.hpa.controller import Settings
from loadtests.hpa.replay import NothingToReplayError, replay, states_of
from loadtests.hpa.what_if import KNOWN, alter, answer, load_of, samples, simulate
from locust_verdict import VerdictError
from locust_verdict.record import Cluster, Event, Sample, read
from tooling.project import REPORTS, ToolingError

REQUIRED_MATCH = 0.9


def newest() -> Path:
    """Return the newest record that saw a cluster. Raises NothingToReplayError where there is none."""
    records = sorted(REPORTS.glob("*/**/record.jsonl"), key=lambda path: path.stat().st_mtime, reverse=True)
    for record in records:
        if any(isinstance(entry, Cluster) for entry in read(record)):
            return record
    raise NothingToReplayError(
        f"no record under {REPORTS} saw a cluster: make one with `invoke load --cluster CONTEXT`"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay a record, simulate the other settings, and draw both; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="hpa", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("record", type=Path, nargs="?", help="a flight record made with --cluster; else the newest one")
    parser.add_argument("--what-if", action="append", default=[], metavar="NAME=NUMBER,...", help=KNOWN)
    options = parser.parse_args(arguments)
    try:
        record = options.record or newest()
        entries = list(read(record))
        replayed = replay(entries)
        print(replayed.text)
        for step in replayed.steps:
            if step.observed != step.predicted:
                after = step.at - replayed.steps[0].at
                print(f"  {after:6.0f} s: {step.before} to {step.observed}, simulated {step.predicted} ({step.reason})")
        load = load_of(entries)
        settings = Settings.from_spec(states_of(entries)[0].autoscaler)
        questions = {"simulated": (settings, load), **{q: alter(q, settings, load) for q in options.what_if}}
    except (OSError, ToolingError, VerdictError) as error:
        print(f"hpa: {error}", file=sys.stderr)
        return 2
    if load.censored:
        print("pods were at their CPU limits: the load is at least what follows from the requests they answered")
    answers = []
    for question, scenario in questions.items():
        seconds = simulate(*scenario)
        answers.append(answer(question, seconds))
        print(answers[-1].text)
        entries += samples(question, seconds)
    entries += [Sample(step.at, "pods", step.predicted, "replayed", "pods") for step in replayed.steps]
    entries.append(Event(entries[0].at, "hpa", "; ".join([replayed.text, *(one.text for one in answers)])))
    timeline.draw(record.with_name("hpa.html"), {record.stem: entries})
    result = {"replay": replayed, "answers": answers}
    record.with_name("hpa.json").write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    print(record.with_name("hpa.html"))
    return 0 if replayed.match >= REQUIRED_MATCH else 1
