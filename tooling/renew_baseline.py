"""Write `baseline.toml` anew from this checkout and its reports: `python -m tooling.renew_baseline [--because REASON]`.

Excuses, settings and canaries are counted; targets and tests are those of the stages' reports of this commit, and stay
where there is none. Exits with 1, and changes nothing, where a figure gets weaker and no reason is named.
"""

import argparse
import sys
from collections import Counter

import msgspec

from tooling import baseline, canaries, excuses
from tooling.baseline import Baseline
from tooling.findings import NotAssessed, Report, looked_at, read_report, revision, tests_of
from tooling.project import REPORTS, ROOT, STAGES, ToolingError

COUNTED = ("test", "sast", "dast")
"""The stages that look at files of this repository; what `build` and `publish` see depends on the base image."""


def report_of(stage: str) -> Report | None:
    """Return the stage's report, where it is one of this commit and has all of its gates: `./dev lint` runs some."""
    try:
        report = read_report(REPORTS / stage / "report.json")
    except NotAssessed:
        return None
    ran = {f"{stage}/{scan.tool}" for scan in report.scans}
    whole = {name for name in canaries.gates() if name.startswith(f"{stage}/")} <= ran
    return report if whole and report.revision.rstrip("+") == revision().rstrip("+") else None


def renewed(old: Baseline, because: str) -> Baseline:
    """Return the figures of this checkout; those of a stage without a report stay as they are."""
    canaries.load(STAGES)
    gates = {name: old.gates.get(name, 1) for name in canaries.gates()}
    tests, skips = old.tests, old.skips
    for stage in COUNTED:
        report = report_of(stage)
        if report is None:
            print(f"{stage}: no whole report of this commit, its figures stay: run `./dev {stage}` first to renew them")
            continue
        for scan in report.scans:
            name = f"{stage}/{scan.tool}"
            if name in gates and not scan.problem:
                gates[name] = 1 if "::" in scan.targets[0] else looked_at(scan)
        if stage == "test":
            tests = dict(tests_of(report.scans))
            skipped = Counter(one.subject for one in report.findings if one.rule == "skipped-test")
            skips = {name: max(skipped[name], skips.get(name, 0)) for name in skipped.keys() | skips.keys()}
    planted = dict(Counter(one.gate for one in canaries.CANARIES))
    shown = excuses.measured(ROOT)
    figures = msgspec.structs.replace(shown, gates=gates, canaries=planted, tests=tests, skips=skips)
    return msgspec.structs.replace(figures, because=because or old.because)


def main(arguments: list[str]) -> int:
    """Write the figures, or exit with 1 and what got weaker."""
    parser = argparse.ArgumentParser(prog="baseline", description="Write baseline.toml anew.")
    parser.add_argument("--because", default="", help="why a figure gets weaker, in one sentence")
    because = parser.parse_args(arguments).because.strip()
    try:
        old = baseline.read() if baseline.BASELINE.exists() else Baseline(because="the first figures")
    except ToolingError as error:
        print(f"baseline: {error}", file=sys.stderr)
        return 1
    new = renewed(old, because)
    weaker = old.weakened(new) if baseline.BASELINE.exists() else []
    for line in weaker:
        print(f"weaker: {line}")
    if weaker and because in {"", old.because}:
        print(
            f"baseline: {len(weaker)} figures get weaker: mend that, or repeat with --because 'REASON'", file=sys.stderr
        )
        return 1
    baseline.BASELINE.write_text(baseline.render(new))
    print(f"wrote {baseline.BASELINE.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
