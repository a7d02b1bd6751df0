"""Run every event of events.toml through the workflows: `python -m tooling.rehearsal [--part | NAME ...]`.

act runs them in a clone of the checked-out commit, whose `dev` is a stand-in; no job reaches GitHub. Then each
deliberate fault is put into a clone, and its event must come to something else. reports/rehearse/ has the table.
Exit codes: 0 as expected, 1 something ended otherwise, 2 could not be run.
"""

import contextlib
import functools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console
from rich.table import Table

from tooling import page
from tooling.findings import NotAssessed
from tooling.project import REPORTS, ROOT, ToolingError
from tooling.tools import call, require

FOLDER = Path(__file__).parent
REPOSITORY = "owner/repository"
USES = re.compile(r"uses: ([\w.-]+/[\w.-]+)((?:/[\w.-]+)*)@([0-9a-f]{40})")
LONGEST = 1800
"""Seconds that an event may take."""


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One entry of events.toml; see the comments there."""

    name: str
    workflow: str
    event: str
    jobs: dict[str, str]
    ref: str = "refs/heads/main"
    private: bool = False
    fork: bool = False
    actor: str = "person"
    secrets: bool = False
    failing: str = ""
    inputs: dict[str, str] = {}
    sees_key: list[str] = []
    summary: list[str] = []
    gh: list[str] = []
    part: bool = False


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A deliberate fault in a file, and the event that must show it."""

    name: str
    event: str
    file: str
    find: str
    replace: str
    part: bool = False


class Outcome(msgspec.Struct, frozen=True):
    """What an event came to."""

    name: str
    jobs: dict[str, str]
    differences: list[str]
    seconds: float


def read() -> tuple[list[Event], list[Fault]]:
    """Read events.toml."""
    entries = tomllib.loads((FOLDER / "events.toml").read_text())
    return msgspec.convert(entries["event"], list[Event]), msgspec.convert(entries["fault"], list[Fault])


def git(*arguments: str, folder: Path) -> None:
    """Run Git as nobody in particular."""
    identity = ["-c", "user.name=rehearsal", "-c", "user.email=rehearsal@example.com", "-c", "commit.gpgsign=false"]
    call("git", *identity, "-C", folder, *arguments)


def clone(folder: Path, fault: Fault | None = None) -> Path:
    """Clone the commit into `folder`, with the stand-in for `dev`, a dated changelog and the fault."""
    origin = folder / "origin"
    call("git", "clone", "--quiet", "--no-hardlinks", ROOT, origin)
    git("checkout", "--quiet", "-B", "main", folder=origin)
    git("remote", "set-url", "origin", f"https://github.com/{REPOSITORY}.git", folder=origin)
    (origin / "dev").write_text(f'#!/bin/sh\nexec {sys.executable} -m tooling.rehearsal.dev "$@"\n')
    changelog = origin / "CHANGELOG.md"
    changelog.write_text(changelog.read_text().replace("1.0.0 - unreleased", "1.0.0 - 2026-01-01"))
    if fault:
        file = origin / fault.file
        if fault.find not in (text := file.read_text()):
            raise NotAssessed(f"the fault `{fault.name}` finds no {fault.find!r} in {fault.file}")
        file.write_text(text.replace(fault.find, fault.replace))
    git("add", "--all", folder=origin)
    git("commit", "--quiet", "--message", "as rehearsed", folder=origin)
    git("tag", "--force", "v1.0.0", folder=origin)
    return origin


def stand_ins(folder: Path, origin: Path) -> list[str]:
    """Write a stand-in for each action that the workflows use; return act's arguments that name them."""
    shutil.copy(FOLDER / "standin.py", folder)
    script = f"{sys.executable} {folder / 'standin.py'}"
    programs = folder / "bin"
    programs.mkdir()
    (programs / "gh").write_text(f'#!/bin/sh\nexec {script} gh "$@"\n')
    (programs / "gh").chmod(0o755)
    actions = {
        match.groups() for file in (origin / ".github").rglob("*.y*ml") for match in USES.finditer(file.read_text())
    }
    for name, inner, _ in actions:
        place = folder / "actions" / name
        (place / inner.lstrip("/")).mkdir(parents=True, exist_ok=True)
        run = {"run": f"{script} {name}{inner}", "shell": "bash", "env": {}}
        used = {key for step in steps_of(origin, f"{name}{inner}@") for key in step.get("with", {})}
        run["env"] = {f"ACTION_INPUT_{key}": f"${{{{ inputs.{key} }}}}" for key in sorted(used)}
        action = {
            "name": name,
            "description": "a stand-in",
            "inputs": {key: {"description": key} for key in sorted(used)},
            "runs": {"using": "composite", "steps": [run]},
        }
        (place / inner.lstrip("/") / "action.yml").write_text(yaml.safe_dump(action))
    for place in {folder / "actions" / name for name, _, _ in actions}:
        git("init", "--quiet", folder=place)
        git("add", "--all", folder=place)
        git("commit", "--quiet", "--message", "stand-in", folder=place)
    return sorted({f"--local-repository={name}@{sha}={folder / 'actions' / name}" for name, _, sha in actions})


def steps_of(origin: Path, uses: str) -> Iterator[dict[str, Any]]:
    """Yield every step of the workflows and actions that uses an action."""
    for file in (origin / ".github").rglob("*.y*ml"):
        document = yaml.safe_load(file.read_text())
        parts = [*document.get("jobs", {}).values(), document.get("runs", {})]
        yield from (step for part in parts for step in part.get("steps", []) if step.get("uses", "").startswith(uses))


def permissions(origin: Path) -> dict[str, dict[str, str]]:
    """Return each job's rights. Raises `NotAssessed` where a called workflow needs more than its caller has."""
    granted: dict[str, dict[str, str]] = {}
    documents = {path.name: yaml.safe_load(path.read_text()) for path in (origin / ".github" / "workflows").iterdir()}
    for document in documents.values():
        for name, job in document["jobs"].items():
            granted[name] = job.get("permissions", document["permissions"])
            called = job.get("uses", "").rpartition("/")[2]
            for inner_name, inner in documents.get(called, {}).get("jobs", {}).items():
                for scope, right in inner.get("permissions", {}).items():
                    if granted[name].get(scope) not in {right, "write"}:
                        raise NotAssessed(f"{inner_name} wants {scope}: {right}, which {name} does not have")
    return granted


@contextlib.contextmanager
def registry(folder: Path) -> Iterator[str]:
    """Run a registry on the loopback interface; yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
        address = f"127.0.0.1:{port}"
    if program := shutil.which("docker-registry"):
        settings = folder / "registry.yml"
        storage = f"{{filesystem: {{rootdirectory: {folder}/registry}}}}"
        settings.write_text(f"version: 0.1\nstorage: {storage}\nhttp: {{addr: '{address}'}}\n")
        command = [program, "serve", str(settings)]
    else:
        image = "public.ecr.aws/docker/library/registry:3"
        command = [str(require("docker")), "run", "--rm", f"--publish={address}:5000", image]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = {**os.environ, "OTEL_TRACES_EXPORTER": "none"}
    with subprocess.Popen(command, env=environment, **quiet) as process:  # type: ignore[call-overload]
        try:
            for _ in range(300):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                time.sleep(0.1)
            yield address
        finally:
            process.terminate()


class Stage(msgspec.Struct, kw_only=True):
    """Where events are run: a folder with the clone and the stand-ins, the registry, and the key."""

    folder: Path
    origin: Path
    arguments: list[str]
    address: str
    key: Any
    published: str = ""

    def run(self, event: Event) -> Outcome:
        """Run one event, and hold what it came to against what it must come to."""
        started = time.monotonic()
        for name in ("artifacts", "seen", "gh.log"):
            path = self.folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        (self.folder / "event.json").write_text(
            json.dumps({"fork": event.fork, "private": event.private, "paid": False})
        )
        results, output = self.act(event)
        (self.folder / "logs").mkdir(exist_ok=True)
        (self.folder / "logs" / f"{event.name}.log").write_text(output)
        if digest := re.search(rf"{re.escape(self.address)}/\S+@sha256:[0-9a-f]{{64}}", output):
            self.published = digest[0]
        jobs = {name: results.get(name, "skipped") for name in event.jobs}
        return Outcome(event.name, jobs, self.differences(event, jobs), time.monotonic() - started)

    def act(self, event: Event) -> tuple[dict[str, str], str]:
        """Run act; return each job's result, and what the jobs wrote."""
        payload: dict[str, Any] = {
            "repository": {"private": event.private, "full_name": REPOSITORY},
            "inputs": {
                name: {"PUBLISHED": self.published, "UNKNOWN": self.published[:-64] + "0" * 64}.get(value, value)
                for name, value in event.inputs.items()
            },
            "ref": event.ref,
        }
        if event.event == "pull_request":
            payload["pull_request"] = {"head": {"repo": {"fork": event.fork}}, "number": 7}
        (self.folder / "payload.json").write_text(json.dumps(payload))
        workflow = f".github/workflows/{event.workflow}"
        environment = {
            "REHEARSAL": str(self.folder),
            "FAILING": event.failing,
            "GITHUB_WORKFLOW_REF": f"{REPOSITORY}/{workflow}@{event.ref}",
            "GITHUB_SERVER_URL": "https://github.com",
            "GITHUB_REF_TYPE": "tag" if event.ref.startswith("refs/tags/") else "branch",
            "GITHUB_REF_NAME": event.ref.rpartition("/")[2],
        }
        command = [str(require("act")), event.event, "--json", "--no-skip-checkout", f"--workflows={workflow}"]
        command += [f"--eventpath={self.folder / 'payload.json'}", f"--actor={event.actor}", *self.arguments]
        command += [f"--platform={machine}=-self-hosted" for machine in ("ubuntu-24.04", "ubuntu-24.04-arm")]
        command += [f"--env={name}={value}" for name, value in environment.items()]
        settings = {**os.environ, "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        settings |= {"HOME": str(self.folder), "DOCKER_CONFIG": str(self.folder / "docker")}
        if event.secrets:
            pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            public = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            # Not by act's own environment: jobs on this machine inherit that.
            private = json.dumps(self.key.private_bytes(*pem).decode())
            (self.folder / "secrets").write_text(f"PROVENANCE_KEY={private}\nSAFETY_API_KEY=a-key-of-nobody\n")
            known = json.dumps(self.key.public_key().public_bytes(*public).decode())
            (self.folder / "variables").write_text(
                f"PROVENANCE_PUBLIC_KEY={known}\nIMAGE_REPOSITORY={self.address}/owner/rehearsed\n"
                "REQUIRED_GATES=safety push\n"
            )
            command += [f"--secret-file={self.folder / 'secrets'}", f"--var-file={self.folder / 'variables'}"]
        done = subprocess.run(
            command, cwd=self.origin, env=settings, check=False, capture_output=True, text=True, timeout=LONGEST
        )
        results: dict[str, str] = {}
        lines = []
        for line in (done.stdout + done.stderr).splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                entry = json.loads(line)
                lines.append(f"{entry.get('jobID', '')}: {entry.get('msg', '').rstrip()}")
                if "jobResult" in entry:
                    worst = {results.get(entry["jobID"], "success"), entry["jobResult"]}
                    results[entry["jobID"]] = "failure" if "failure" in worst else entry["jobResult"]
                continue
            lines.append(line)
        return results, "\n".join(lines)

    def differences(self, event: Event, jobs: dict[str, str]) -> list[str]:
        """Return in what an event came to something else."""
        differences = [
            f"{name} is {jobs[name]}, not {wanted}" for name, wanted in event.jobs.items() if jobs[name] != wanted
        ]
        summary = self.folder / "artifacts" / "notify" / "summary.md"
        text = summary.read_text() if summary.exists() else ""
        differences += [f"the summary lacks {words!r}" for words in event.summary if words not in text]
        seen = self.folder / "seen"
        sees = sorted(path.name for path in seen.glob("*") if path.read_text())
        if sees != sorted(event.sees_key):
            differences.append(f"the key goes to {sees}, not to {sorted(event.sees_key)}")
        log = self.folder / "gh.log"
        calls = log.read_text().splitlines() if log.exists() else []
        if [one for one, wanted in zip(calls, event.gh, strict=False) if not one.startswith(wanted)] or len(
            calls
        ) != len(event.gh):
            differences.append(f"gh is called with {calls}, not with {event.gh}")
        return differences


@contextlib.contextmanager
def prepared(address: str, key: Any, fault: Fault | None = None) -> Iterator[Stage]:
    """Yield a place to run events in."""
    with TemporaryDirectory(prefix="rehearsal-") as name:
        folder = Path(name)
        origin = clone(folder, fault)
        (folder / "permissions.json").write_text(json.dumps(permissions(origin)))
        stage = Stage(folder=folder, origin=origin, arguments=stand_ins(folder, origin), address=address, key=key)
        try:
            yield stage
        finally:
            logs = REPORTS / "rehearse" / (fault.name if fault else "logs")
            if (folder / "logs").exists():
                shutil.copytree(folder / "logs", logs, dirs_exist_ok=True)


def main(names: list[str]) -> int:
    """Rehearse the named events alone, or all of them, or those of a part, and then the faults."""
    events, faults = read()
    part = names == ["--part"]
    wanted = [event for event in events if not names or event.name in names or (part and event.part)]
    if unknown := set(names) - {event.name for event in events} - {"--part"}:
        print(f"rehearse: events.toml has no event {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    console = Console(highlight=False, soft_wrap=True)
    log = functools.partial(console.print, markup=False)
    shutil.rmtree(REPORTS / "rehearse", ignore_errors=True)
    outcomes: list[Outcome] = []
    missed: list[str] = []
    try:
        with TemporaryDirectory(prefix="registry-") as folder, registry(Path(folder)) as address:
            key = Ed25519PrivateKey.generate()
            with prepared(address, key) as stage:
                for event in wanted:
                    outcome = stage.run(event)
                    outcomes.append(outcome)
                    verdict = "; ".join(outcome.differences) or "as expected"
                    log(f"{event.name}: {verdict} ({page.duration(outcome.seconds)})")
            for fault in [fault for fault in faults if not names or (part and fault.part)]:
                event = next(one for one in events if one.name == fault.event)
                with prepared(address, key, fault) as stage:
                    outcome = stage.run(event)
                if not outcome.differences:
                    missed.append(fault.name)
                shown = "; ".join(outcome.differences) or "NOT NOTICED"
                log(f"fault, {fault.name}: {shown} ({page.duration(outcome.seconds)})")
    except (ToolingError, subprocess.TimeoutExpired) as error:
        print(f"rehearse: {error}", file=sys.stderr)
        return 2
    write(outcomes, console)
    return 1 if missed or any(outcome.differences for outcome in outcomes) else 0


def write(outcomes: list[Outcome], console: Console) -> None:
    """Print the table of what each event came to, and write it as JSON."""
    table = Table("event", "its jobs", "as expected")
    for outcome in outcomes:
        kinds = {
            result: [name for name, one in outcome.jobs.items() if one == result] for result in outcome.jobs.values()
        }
        jobs = "; ".join(f"{result}: {', '.join(names)}" for result, names in kinds.items())
        table.add_row(outcome.name, jobs, "no" if outcome.differences else "yes")
    console.print(table)
    folder = REPORTS / "rehearse"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rehearsal.json").write_bytes(msgspec.json.format(msgspec.json.encode(outcomes)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
