"""The road to production, stage by stage. `./dev` lists the sessions; `./dev test` runs one."""

import tomllib
from pathlib import Path

import nox

nox.needs_version = ">=2026.10"
nox.options.default_venv_backend = "uv"
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_external_run = True
nox.options.sessions = ["test"]

ROOT = Path(__file__).parent
GROUPS = list(tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"])


def install(session: nox.Session, group: str, *, service: bool = False) -> None:
    """Install one locked dependency group, and the service from this checkout where asked."""
    session.install("--require-hashes", "-r", f"requirements/{group}.txt")
    if service:
        session.install("--no-deps", "--no-build-isolation", "-e", "services/task_api")


@nox.session
def lint(session: nox.Session) -> None:
    """Style and types: ruff and mypy --strict."""
    install(session, "lint", service=True)
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("mypy")


@nox.session(requires=["lint"])
def test(session: nox.Session) -> None:
    """Every test, on SQLite and on a real PostgreSQL, with branch coverage."""
    install(session, "test", service=True)
    session.run("pytest", "-n", "auto", "--cov", "--cov-report=term", *session.posargs)


@nox.session
def containers(session: nox.Session) -> None:
    """The image and the Compose stack: run hardened, killed under load, lost and restored. Needs Docker."""
    install(session, "test", service=True)
    session.run("pytest", "-m", "docker", "tests/containers", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """What the service costs, held against two plain services: `nox -s bench -- cpu` for one measure alone."""
    install(session, "bench", service=True)
    session.run("python", "-m", "services.task_api.bench.run", *session.posargs)


@nox.session
def loadtest(session: nox.Session) -> None:
    """The load gate: P95 at a stated rate, on two workers; with arguments any load test, as `invoke load` has them."""
    install(session, "load", service=True)
    gate = ["--headless", "--rate=60", "--run-time=35s", "--attempts=3"]
    session.run("python", "-m", "loadtests", *(session.posargs or gate))


@nox.session
def load_canaries(session: nox.Session) -> None:
    """Each verdict of the load gate, from a service that deserves it: slow, failing, stalled, silent."""
    install(session, "load", service=True)
    session.run("python", "-m", "loadtests.canaries")


@nox.session
def lock(session: nox.Session) -> None:
    """Renew the locks: `nox -s lock` for all of them, `nox -s lock -- test --upgrade` for one."""
    install(session, "dev")
    flags = [argument for argument in session.posargs if argument.startswith("-")]
    names = [argument for argument in session.posargs if not argument.startswith("-")] or ["service", *GROUPS]
    base = ["uv", "pip", "compile", "--universal", "--python-version=3.11", "--generate-hashes", "--no-emit-index-url"]
    base += ["--no-header", "--quiet", *flags]
    for name in names:
        if name == "service":
            output = "services/task_api/requirements.txt"
            session.run(*base, "services/task_api/pyproject.toml", "-o", output)
        else:
            alone = name in {"scanners", "wapiti"}  # programs that never import the service, with pins of their own
            constrained = [] if alone else ["-c", "services/task_api/requirements.txt", "--no-emit-package=task-api"]
            session.run(*base, *constrained, "--group", name, "-o", f"requirements/{name}.txt")
