"""What a person asks for. `./dev` lists the tasks."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from tooling import compose
from tooling.compose import ComposeError
from tooling.image import ImageError
from tooling.tools import MissingTool


@contextmanager
def plain_errors() -> Iterator[None]:
    """End with the message alone, and exit code 2, where something outside this repository is wrong."""
    try:
        yield
    except (ComposeError, ImageError, MissingTool) as error:
        raise Exit(str(error), code=2) from error


@task
def serve(context: Context) -> None:
    """Serve tasks on http://127.0.0.1:5000 with the embedded database; settings by environment."""
    context.run("task-api serve", pty=False)


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
    context: Context,
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
    given = {
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
    options = [f"--{name}={value}" for name, value in given.items() if value]
    options += ["--headless"] if headless else [] if against or replay else ["--browser"]
    options += ["--replay", *replay.split(",")] if replay else []
    _loadtests(context, [*options, *shlex.split(more)])


@task(
    help={
        "record": "flight record made with --cluster; the newest one by default",
        "what_if": "other settings, such as cpu=60,max=20,load=10; may be given several times",
    },
    iterable=["what_if"],
)
def hpa(context: Context, record: str = "", what_if: list[str] | None = None) -> None:
    """Replay the autoscaler's decisions of a flight record, and ask what other settings would have done."""
    _loadtests(
        context, ["hpa", *([record] if record else []), *(f"--what-if={question}" for question in what_if or [])]
    )


def _loadtests(context: Context, arguments: list[str]) -> None:
    command = shlex.join(["nox", "--session=loadtest", "--", *arguments])
    ran = context.run(command, pty=sys.stdout.isatty(), warn=True)
    if ran is None or ran.exited:
        raise Exit(code=ran.exited if ran else 2)
