"""One summary of all stages: `python -m tooling.notify` writes reports/notify/ and sends it to webhooks.

It reads what the stages left in reports/ and, on GitHub, the jobs' results in NEEDS (`toJSON(needs)`). Markdown goes to
the job summary; SLACK_WEBHOOK_URL gets Slack's shape; WEBHOOK_URL receives JSON, signed where WEBHOOK_SECRET is set:
the header X-Hub-Signature-256 holds the body's HMAC-SHA256, as in GitHub's own webhooks.

Exit codes: 0 delivered, 2 a webhook could not be reached. A stage's failure is the stage's own.
"""

import functools
import hashlib
import hmac
import json
import os
import sys
import textwrap
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
import stamina

from tooling import page
from tooling.findings import (
    NOT_ASSESSED,
    Gate,
    NotAssessed,
    Report,
    Scan,
    Waiver,
    read_report,
    read_waivers,
    revision,
    run_gates,
)
from tooling.project import FIRST_RUNS, REPORTS, STAGES, source

SUMMARISED = tuple(name for name in STAGES if name != "notify")
SLOWEST_SECONDS = 60.0
stamina.instrumentation.set_on_retry_hooks([])  # they would log a webhook's address, which is a secret
MARKS = {"passed": "✅", "failed": "❌", "skipped": "⏭️", "not assessed": "⚠️"}


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """How one stage went: passed, failed, skipped, did not run (it left no record), or stale.

    A record of another commit, of other changes or of another run is stale.
    """

    name: str
    result: str
    seconds: float | None = None
    first_seconds: float | None = None
    report: Report | None = None

    @property
    def remark(self) -> str:
        """What is worth knowing, in one line."""
        if self.result == "stale":
            return f"its report is of another commit, other changes or another run: run `./dev {self.name}`"
        if self.report is None:
            return "no report"
        failing = [finding for finding in self.report.findings if finding.fails]
        parts = [f"{len(failing)} findings"] if failing else []
        parts += [f"{scan.tool} {scan.gap}: {textwrap.shorten(scan.problem, 160)}" for scan in self.report.gaps]
        parts += [textwrap.shorten(warning.message, 160) for warning in self.report.warnings]
        parts += [f"fixture: {name}" for name in self.report.fixtures]
        return "; ".join(parts) or f"{len(self.report.scans)} gates clean"


def read_stage(name: str, folder: Path, result: str = "") -> Stage:
    """Read a stage's record and report from `folder`; without a record, `result` is that of its CI job."""
    words = {"success": "passed", "failure": "failed", "cancelled": "cancelled", "skipped": "skipped"}
    record = read_json(folder / "stage.json")
    first = read_json(FIRST_RUNS / f"{name}.json")
    try:
        report = read_report(folder / "report.json")
    except NotAssessed:
        report = None
    recorded = words.get(result, "did not run") if record is None else record["result"]
    if record and record.get("source") != source():
        recorded = "stale"
    if result == "failure":
        recorded = "failed"
    return Stage(
        name=name,
        result="interrupted" if recorded == "running" else recorded,
        seconds=record["seconds"] if record else None,
        first_seconds=first["seconds"] if first else None,
        report=report,
    )


def read_json(path: Path) -> dict[str, Any] | None:
    """Decode a JSON file; None where there is none."""
    try:
        decoded: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return decoded


def overall(stages: list[Stage]) -> str:
    """Return one word for the pipeline: passed where no stage failed; a request's `publish` is skipped."""
    results = {stage.result for stage in stages}
    return "passed" if "passed" in results and results <= {"passed", "skipped"} else "failed"


def gaps(stages: list[Stage]) -> list[str]:
    """Return what the run did not assess or do, because a setting is missing or a service cannot be reached."""
    lines = [
        f"{stage.name}/{scan.tool}: {scan.gap}: {textwrap.shorten(scan.problem, 200)}"
        for stage in stages
        if stage.report
        for scan in stage.report.gaps
    ]
    if not (os.environ.get("SLACK_WEBHOOK_URL") or os.environ.get("WEBHOOK_URL")):
        lines.append("notify/webhook: not configured: set SLACK_WEBHOOK_URL or WEBHOOK_URL")
    return lines


def markdown(stages: list[Stage], commit: str) -> str:
    """Write the summary as a Markdown table."""
    lines = [
        f"## Pipeline {overall(stages)}: `{commit}`",
        "",
        "| stage | result | took | |",
        "| --- | --- | --- | --- |",
    ]
    for stage in stages:
        took = page.duration(stage.seconds) if stage.seconds is not None else ""
        remark = stage.remark.replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {stage.name} | {MARKS.get(stage.result, '❌')} {stage.result} | {took} | {remark} |")
    if missing := gaps(stages):
        lines += ["", "Not looked at, and not clean:", "", *(f"- {gap}" for gap in missing)]
    findings = [finding for stage in stages if stage.report for finding in stage.report.findings if finding.fails]
    if findings:
        lines += ["", "| severity | gate and rule | place | what |", "| --- | --- | --- | --- |"]
        for finding in findings[:50]:
            message = finding.message.replace("|", "\\|").replace("\n", " ")
            where = f"{finding.tool} {finding.rule} | `{finding.place}`"
            lines.append(f"| {finding.severity.name.lower()} | {where} | {message} |")
    return "\n".join(lines) + "\n"


def plain(stages: list[Stage], commit: str) -> dict[str, Any]:
    """Return the summary for machines."""
    return {
        "result": overall(stages),
        "revision": commit,
        "run": run_url(),
        "gaps": gaps(stages),
        "stages": [
            {
                "name": stage.name,
                "result": stage.result,
                "seconds": stage.seconds,
                "findings": sum(finding.fails for finding in stage.report.findings) if stage.report else None,
                "remark": stage.remark,
            }
            for stage in stages
        ],
    }


def slack(stages: list[Stage], commit: str) -> dict[str, Any]:
    """Return the summary in the shape of Slack's incoming webhooks."""
    text = f"Pipeline {overall(stages)}: {commit}"
    lines = [f"{MARKS.get(stage.result, '❌')} *{stage.name}* {stage.result}: {stage.remark}" for stage in stages]
    if url := run_url():
        lines.append(f"<{url}|the run>")
    body = "\n".join([f"*{text}*", *lines])[:2900]  # a section holds 3000 characters
    return {"text": text, "blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": body}}]}


def run_url() -> str:
    """Return the address of the CI run; empty outside of one."""
    run = os.environ.get("GITHUB_RUN_ID")
    server, repository = os.environ.get("GITHUB_SERVER_URL"), os.environ.get("GITHUB_REPOSITORY")
    return f"{server}/{repository}/actions/runs/{run}" if run else ""


def worth_another_try(error: Exception) -> bool:
    """Return whether the receiver may take it later: it was not reached, is busy or broke."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code == httpx.codes.TOO_MANY_REQUESTS or error.response.is_server_error
    return isinstance(error, httpx.TransportError)


def deliver(url: str, content: dict[str, Any], secret: str = "", *, attempts: int = 4) -> Scan:
    """Post JSON to a webhook, again for a while where that may help; raise `NotAssessed` where it was not taken."""
    body = json.dumps(content).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "pipeline"}
    if secret:
        headers["X-Hub-Signature-256"] = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    host = urlsplit(url).netloc  # the path of a webhook is a secret
    try:
        for attempt in stamina.retry_context(on=worth_another_try, attempts=attempts, timeout=60):
            with attempt:
                httpx.post(url, content=body, headers=headers, timeout=10).raise_for_status()
    except httpx.HTTPStatusError as error:
        raise NotAssessed(f"the webhook at {host} answered {error.response.status_code}") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NotAssessed(f"the webhook at {host} was not reached: {type(error).__name__}") from None
    return Scan(tool="webhook", version="1", targets=(host,))


def webhooks(stages: list[Stage], commit: str) -> dict[str, Gate]:
    """Return a delivery for each webhook that is set."""
    secret = os.environ.get("WEBHOOK_SECRET", "")
    wanted = {
        "slack": (os.environ.get("SLACK_WEBHOOK_URL"), slack(stages, commit), ""),
        "webhook": (os.environ.get("WEBHOOK_URL"), plain(stages, commit), secret),
    }
    return {name: functools.partial(deliver, url, content, key) for name, (url, content, key) in wanted.items() if url}


def write(stages: list[Stage], waivers: list[Waiver], commit: str, folder: Path) -> None:
    """Write the summary's page, Markdown and JSON into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.md").write_text(markdown(stages, commit))
    (folder / "summary.json").write_text(json.dumps(plain(stages, commit), indent=2))
    measured = [stage.seconds for stage in stages if stage.seconds is not None]
    content = {
        "stages": stages,
        "waivers": waivers,
        "commit": commit,
        "result": overall(stages),
        "total": sum(measured),
        "longest": max(measured, default=0.0),
        "allowed": SLOWEST_SECONDS,
        "now": datetime.now(UTC),
        "fixtures": sorted({name for stage in stages if stage.report for name in stage.report.fixtures}),
    }
    (folder / "summary.html").write_text(page.render("summary.html", **content))


def main() -> int:
    """Write the summary, deliver it to the webhooks, and return the exit code."""
    needs = json.loads(os.environ.get("NEEDS") or "{}")
    stages = [read_stage(name, REPORTS / name, needs.get(name, {}).get("result", "")) for name in SUMMARISED]
    commit = revision()
    write(stages, read_waivers(), commit, REPORTS / "notify")
    text = markdown(stages, commit)
    print(text)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(summary).open("a") as file:
            file.write(text)
    print("page: reports/notify/summary.html")
    scans = run_gates(webhooks(stages, commit))
    if not scans and "webhook" in os.environ.get("REQUIRED_GATES", "").split():
        print("notify: REQUIRED_GATES names webhook, and none is set", file=sys.stderr)
        return NOT_ASSESSED
    return NOT_ASSESSED if any(scan.problem for scan in scans) else 0


GATES: dict[str, Gate] = {"webhook": lambda: deliver(os.environ["WEBHOOK_URL"], {})}

if __name__ == "__main__":
    sys.exit(main())
