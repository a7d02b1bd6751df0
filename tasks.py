"""The tasks for people. `./dev` lists them."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task
from rich.console import Console

from tooling import compose, secret_files
from tooling.compose import ComposeError
from tooling.deploy import DeployError, cluster, recovery, rollout, view
from tooling.deploy import backup as backups
from tooling.deploy.release import Target, migrate
from tooling.deploy.release import deploy as release
from tooling.deploy.steps import Steps
from tooling.images import trust
from tooling.images.build import ImageError
from tooling.images.provenance import Untrusted
from tooling.project import ENVIRONMENTS, REPORTS, service
from tooling.tools import MissingTool


@contextmanager
def plain_errors() -> Iterator[None]:
    """End with the message alone, and exit code 2, where something outside this repository is wrong."""
    try:
        yield
    except (ComposeError, ImageError, MissingTool) as error:
        raise Exit(str(error), code=2) from error


@task
def serve(_context: Context) -> None:
    """Serve on http://127.0.0.1:5000 with the embedded database; settings by environment."""
    os.execvp(service().name, [service().name, "serve"])  # in our place, so that signals reach it


@task(
    help={
        "grafana": "leave Grafana out with --no-grafana",
        "traces": "start Jaeger too, and send the service's spans to it",
    }
)
def up(_context: Context, grafana: bool = True, traces: bool = False) -> None:
    """Build and start everything with Docker Compose, wait until it is healthy, and print the addresses."""
    with plain_errors():
        compose.up(grafana=grafana, traces=traces)


@task
def rotate_keys(_context: Context) -> None:
    """Renew the key that signs access tokens; `up` or `deploy` puts it to use. Tokens of the one before stay valid."""
    print(f"{secret_files.rotate()} signs from the next `./dev up` or `./dev deploy` on")


@task(help={"finish": "drop the keys before, once the command encrypt-secrets has used the new one"})
def rotate_encryption_keys(_context: Context, finish: bool = False) -> None:
    """Renew the key that encrypts secrets in the database; those before it go on decrypting, until --finish."""
    kid = secret_files.drop_old_encryption() if finish else secret_files.rotate_encryption()
    print(f"{kid} encrypts from the next `./dev up` or `./dev deploy` on{', alone' if finish else ''}")
    if finish:
        print(f"those before are kept in {secret_files.FOLDER / secret_files.DROPPED}, for older dumps")


@task(help={"volumes": "delete the data too: tasks, metrics, dashboards' state"})
def down(_context: Context, volumes: bool = False) -> None:
    """Stop what `up` started; the data stays."""
    with plain_errors():
        compose.down(volumes=volumes)


@task(help={"file": "where to write; backups/tasks-TIME.dump by default"})
def backup(_context: Context, file: str = "") -> None:
    """Write the running stack's database into one file."""
    with plain_errors():
        compose.backup(Path(file) if file else None)


@task(help={"file": "what `backup` wrote"})
def restore(_context: Context, file: str) -> None:
    """Put a backup in the place of the running stack's database."""
    with plain_errors():
        compose.restore(Path(file))


@task(
    help={
        "host": "base URL; without it the service is started here, with two workers",
        "shape": "steady, step, spike, soak or hpa",
        "users": "users at the peak",
        "rate": "open loop: arrivals per second at the peak; 0 is the closed loop",
        "run_time": "stretch the shape to this length, such as 90s or 10m",
        "headless": "no browser UI: run now, judge, exit 0 pass, 1 fail, 2 inconclusive",
        "processes": "generator processes, merged exactly",
        "objectives": "file of what the run has to hold",
        "cluster": "kubectl's context: watch the deployment and its autoscaler into the record",
        "against": "compare this checkout with another version, by turns",
        "replay": "draw a flight record again; two, separated by a comma, over each other",
        "more": "further options of Locust, in one string",
    }
)
def load(
    _context: Context,
    host: str = "",
    shape: str = "",
    users: int = 0,
    rate: float = 0.0,
    run_time: str = "",
    headless: bool = False,
    processes: int = 0,
    objectives: str = "",
    cluster: str = "",
    against: str = "",
    replay: str = "",
    more: str = "",
) -> None:
    """Open Locust's browser UI on loopback, everything filled in; or load and judge with --headless."""
    values = {
        "host": host,
        "shape": shape,
        "users": users,
        "rate": rate,
        "run-time": run_time,
        "processes": processes,
        "objectives": objectives,
        "cluster": cluster,
        "against": against,
    }
    options = [f"--{name}={value}" for name, value in values.items() if value]
    options += ["--headless"] if headless else [] if against or replay else ["--browser"]
    options += ["--replay", *replay.split(",")] if replay else []
    _loadtests([*options, *shlex.split(more)])


@task(
    help={
        "record": "flight record made with --cluster; the newest one by default",
        "what_if": "other settings, such as cpu=60,max=20,load=10; may be given several times",
    },
    iterable=["what_if"],
)
def hpa(_context: Context, record: str = "", what_if: list[str] | None = None) -> None:
    """Replay the autoscaler's decisions of a flight record, and compute what other settings would have done."""
    _loadtests(["hpa", *([record] if record else []), *(f"--what-if={question}" for question in what_if or [])])


def _loadtests(arguments: list[str]) -> None:
    """Run them in their session's environment and exit with their code, where Nox makes 1 of every failure."""
    prepared = subprocess.run(
        ["nox", "--session=loadtest", "--install-only"], capture_output=True, text=True, check=False
    )
    if prepared.returncode:
        raise Exit(prepared.stdout + prepared.stderr, code=2)
    python = ENVIRONMENTS / "loadtest" / "bin" / "python"
    ran = subprocess.run([python, "-m", "loadtests", *arguments], check=False)
    raise Exit(code=ran.returncode)


@contextmanager
def deploying(title: str) -> Iterator[Steps]:
    """Show the steps of work on a cluster; print the cluster's output and exit with code 1 when it fails."""
    steps = Steps(title)
    try:
        with plain_errors():
            yield steps
    except (DeployError, Untrusted) as error:
        if error.evidence:
            print(f"\n{error.evidence}", file=sys.stderr)
        raise Exit(f"\n{title} failed: {error}", code=1) from error


WHERE = {
    "overlay": "kind, eks, gke, or a folder with a kustomization.yaml",
    "context": "kubectl's context of another cluster than the local one",
    "name": "the service, where there are several",
}


@task(
    help={
        **WHERE,
        "image": "REPOSITORY@sha256:DIGEST, whose provenance is verified; by default this checkout, built and scanned",
        "url": "the service's base URL, where it is not the host of the Ingress",
        "database": "single (one pod) or replicated (three instances by CloudNativePG); the overlay's by default",
        "archive": "s3://BUCKET/PATH, where the replicated database is archived; with AWS_* of the environment",
        "accept_unassessed": "deploy although no vulnerability database could be had to scan the image with",
    }
)
def deploy(
    _context: Context,
    overlay: str = "kind",
    context: str = "",
    name: str = "",
    image: str = "",
    url: str = "",
    database: str = "",
    archive: str = "",
    accept_unassessed: bool = False,
) -> None:
    """Bring a cluster, made where there is none, to a scaled and verified service, or roll back."""
    with deploying("deploy") as steps:
        target = Target.of(overlay, context, name, url, database=database, place=archive)
        problem = ""
        try:
            if target.local:
                cluster.check()
            with steps.step("image") as log:
                checked = (
                    trust.pushed(image)
                    if image
                    else trust.built_here(target.service, log, accept_unassessed=accept_unassessed)
                )
            release(target, checked, steps)
        except (DeployError, Untrusted) as error:
            problem = str(error)
            raise
        finally:
            steps.write(REPORTS / "deploy", problem)
        print(
            f"\n{target.url()} serves {checked} (first 200 after {steps.marks['first 200']:.0f} s); see reports/deploy"
        )


@task(help=WHERE)
def status(_context: Context, overlay: str = "kind", context: str = "", name: str = "") -> None:
    """Show what runs in the cluster: pods, autoscaler, last warnings."""
    with deploying("status"):
        target = Target.of(overlay, context, name)
        view.show(target.kube, target.service.name, target.url(), Console())


@task(help={**WHERE, "follow": "go on with --follow"})
def logs(runner: Context, overlay: str = "kind", context: str = "", name: str = "", follow: bool = False) -> None:
    """Print the log lines of all the service's pods."""
    options = ["--prefix", "--tail=100", "--max-log-requests=20", *(["--follow"] if follow else [])]
    with deploying("logs"):
        command = Target.of(overlay, context, name).kube.command("logs", f"--selector={view.selector()}", *options)
    runner.run(shlex.join(command), pty=False)


@task(help={**WHERE, "to": "revision; the one before by default"})
def rollback(_context: Context, overlay: str = "kind", context: str = "", name: str = "", to: int = 0) -> None:
    """Return the service the pods of its last revision again."""
    with deploying("rollback") as steps, steps.step("roll back") as log:
        target = Target.of(overlay, context, name)
        revision = rollout.roll_back(target.kube, target.service.name, log, to=to)
        log(f"revision {revision} serves again")


@task(help=WHERE)
def cluster_backup(_context: Context, overlay: str = "kind", context: str = "", name: str = "") -> None:
    """Run the cluster's nightly backup now."""
    with deploying("backup") as steps, steps.step("backup") as log:
        target = Target.of(overlay, context, name)
        log(backups.run_now(target.kube, f"{target.service.name}-backup", log))


@task(
    help={
        **WHERE,
        "file": "name of a backup in the cluster's volume; the newest by default",
        "at": "instead, the moment to which the archived database is recovered: 2026-11-26T12:00:00Z",
    }
)
def cluster_restore(
    _context: Context, overlay: str = "kind", context: str = "", name: str = "", file: str = "", at: str = ""
) -> None:
    """Put a backup, or the database as it was at a moment, in the place of the cluster's database, and migrate it."""
    with deploying("restore") as steps:
        if file and at:
            raise DeployError("--file names a dump and --at a moment of the archive: leave one out")
        target = Target.of(overlay, context, name)
        if at:
            recovery.recover(target.kube, recovery.moment(at), steps)
        else:
            with steps.step("restore") as log:
                log(backups.restore(target.kube, target.service.name, log, file))
        with steps.step("migration") as log:
            migrate(target, log)


@task
def destroy(_context: Context) -> None:
    """Remove the local cluster; its backups stay in .cache/backups."""
    with deploying("destroy") as steps, steps.step("remove the kind cluster"):
        cluster.destroy()
