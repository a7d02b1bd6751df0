"""What a person asks for. `./dev` lists the tasks."""

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
