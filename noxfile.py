"""The road to production, stage by stage. `./dev` lists the sessions; `./dev test` runs one."""

import os
import sys
import tomllib
from pathlib import Path

import nox

sys.path.insert(0, str(Path(__file__).parent))
from tooling import project
from tooling.stages import stage

nox.needs_version = ">=2026.10"
nox.options.default_venv_backend = "uv"
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_external_run = True
nox.options.envdir = str(project.ENVIRONMENTS)
nox.options.sessions = list(project.STAGES)

# The stages start Python some hundred times: where this is set, each start would compile its libraries anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

GROUPS = list(tomllib.loads((project.ROOT / "pyproject.toml").read_text())["dependency-groups"])


def install(session: nox.Session, group: str, *, service: bool = False) -> None:
    """Install one locked dependency group, and with `service` this checkout's services and packages."""
    session.install("--require-hashes", "-r", f"requirements/{group}.txt")
    if service:
        session.install("--no-deps", "--no-build-isolation", *(f"--editable={one}" for one in project.distributions()))


def programs(session: nox.Session, *names: str) -> None:
    """See to the programs that a stage calls: a locked environment of them, or one program."""
    session.run("python", "-m", "tooling.tools", *names)


@stage
def test(session: nox.Session) -> None:
    """Style, types and every test, on SQLite and on a real PostgreSQL; `nox -s test -- -k login` runs some tests."""
    install(session, "test", service=True)
    programs(session, "scanners")
    session.run(*(["pytest", *session.posargs] if session.posargs else ["python", "-m", "tooling.check"]))


@stage
def sast(session: nox.Session) -> None:
    """The source: insecure code, vulnerable dependencies, secrets in the history, misconfiguration, workflows."""
    install(session, "pipeline")
    programs(session, "node", "scanners", "actionlint", "gitleaks", "hadolint", "trivy")
    session.run("python", "-m", "tooling.sast")


@stage
def build(session: nox.Session) -> None:
    """The image, its inventory, its known vulnerabilities; in CI it is kept for `publish`."""
    install(session, "pipeline")
    programs(session, "syft", "trivy")
    session.run("python", "-m", "tooling.images.build")
    session.run("python", "-m", "tooling.images.scan")
    if os.environ.get("CI"):
        session.run("python", "-m", "tooling.images.push", "--archive")


@stage
def dast(session: nox.Session) -> None:
    """The real service, attacked: Schemathesis, Wapiti, security headers, and who may do what."""
    install(session, "dast", service=True)
    programs(session, "node", "oasdiff", "wapiti")
    session.run("python", "-m", "tooling.dast")


@nox.session
def openapi(session: nox.Session) -> None:
    """Keep this checkout's OpenAPI documents as the last release's; `./dev openapi NAME` for one service."""
    install(session, "dast", service=True)
    programs(session, "oasdiff")
    session.run("python", "-m", "tooling.dast.openapi", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Ten thousand hostile inputs over plain sockets, other ones each day; `nox -s fuzz -- --seed 20261126`."""
    install(session, "dast", service=True)
    session.run("python", "-m", "tooling.dast.fuzz", *session.posargs)


@stage
def publish(session: nox.Session) -> None:
    """The push, by digest and with its provenance, where a repository and a key are set: only this session has it."""
    install(session, "pipeline")
    session.run("python", "-m", "tooling.images.push")


@stage
def notify(session: nox.Session) -> None:
    """One summary of all stages, whether they passed or not: a page, the job summary, a webhook where one is set."""
    install(session, "pipeline")
    session.run("python", "-m", "tooling.notify")


@nox.session
def canaries(session: nox.Session) -> None:
    """A planted defect for every gate, and each gate seen going red for it; `nox -s canaries -- sast` for one stage."""
    install(session, "canaries", service=True)
    programs(session, "node", "scanners", "wapiti", "actionlint", "gitleaks", "hadolint", "oasdiff", "syft", "trivy")
    session.run("python", "-m", "tooling.canaries", *session.posargs)


@nox.session
def baseline(session: nox.Session) -> None:
    """Write baseline.toml anew, from this commit's reports; a figure gets weaker with `--because REASON` alone."""
    install(session, "canaries", service=True)
    session.run("python", "-m", "tooling.renew_baseline", *session.posargs)


@nox.session
def tools(session: nox.Session) -> None:
    """Get every program that the stages call, and list them with their versions."""
    install(session, "pipeline")
    programs(session)


@nox.session
def third_party(session: nox.Session) -> None:
    """The images of others that the cluster and Compose run, held to the same gate as our own. Needs Docker."""
    install(session, "pipeline")
    programs(session, "trivy")
    session.run("python", "-m", "tooling.images.third_party", "scan")


@nox.session
def pin(session: nox.Session) -> None:
    """Write the digest of each image of others behind its tag, as its registry has it. Needs Docker and a network."""
    install(session, "pipeline")
    session.run("python", "-m", "tooling.images.third_party", "pin", *session.posargs)


@nox.session
def verify(session: nox.Session) -> None:
    """Whether an image may be deployed, by its provenance: `nox -s verify -- REPOSITORY@sha256:DIGEST`."""
    install(session, "pipeline")
    session.run("python", "-m", "tooling.images.provenance", *session.posargs)


@nox.session
def release(session: nox.Session) -> None:
    """The release notes of this version, from the changelog; on a tag in CI the release itself."""
    install(session, "pipeline")
    session.run("python", "-m", "tooling.github", "release")


@nox.session
def report_proofs(session: nox.Session) -> None:
    """In CI, after the nightly proofs: one open issue while they fail, closed when they pass again."""
    install(session, "pipeline")
    session.run("python", "-m", "tooling.github", "proofs")


@nox.session
def lint(session: nox.Session) -> None:
    """Style, types and imports alone, for a quick look; `test` includes them."""
    install(session, "test", service=True)
    programs(session, "scanners")
    session.run("python", "-m", "tooling.check", "format", "lint", "types", "imports")


@nox.session
def containers(session: nox.Session) -> None:
    """The image and the Compose stack: run hardened, killed under load, lost and restored. Needs Docker."""
    install(session, "test", service=True)
    session.run("pytest", "-m", "docker", "tests/containers", "tooling/tests", *session.posargs)


@nox.session
def browser(session: nox.Session) -> None:
    """The page at / in Chromium: every action, two people, lost connections, axe; then its canaries."""
    install(session, "browser", service=True)
    programs(session, "node")
    tests = [str(one.folder / "browser") for one in project.services() if (one.folder / "browser").exists()]
    session.run("pytest", "-m", "browser", *tests, *session.posargs)
    if not session.posargs:
        session.run("python", "-m", f"services.{project.service().package}.browser.canaries")


@nox.session
def bench(session: nox.Session) -> None:
    """What the service costs, held against other frameworks: `nox -s bench -- cpu` for one measure alone."""
    install(session, "bench", service=True)
    session.run("python", "-m", f"services.{project.service().package}.bench.run", *session.posargs)


@nox.session
def loadtest(session: nox.Session) -> None:
    """The load gate: P95 at a stated rate, on two workers; with arguments any load test, as `invoke load` has them."""
    install(session, "load", service=True)
    gate = ["--headless", "--rate=60", "--run-time=35s", "--attempts=3"]
    session.run("python", "-m", "loadtests", *(session.posargs or gate))


@nox.session
def load_canaries(session: nox.Session) -> None:
    """Each verdict of the load gate, from a service that deserves it: slow, failing, stalled, silent."""
    install(session, "test", service=True)
    session.run("python", "-m", "loadtests.canaries")
    session.run("python", "-m", "loadtests.slow_clients", success_codes=[0, 2])  # 2: the machine is too busy to measure
    session.run("pytest", "-m", "load", "loadtests", "packages", *session.posargs)


@nox.session
def monitoring(session: nox.Session) -> None:
    """Rules, dashboards and traces against a real Prometheus and Alertmanager: their unit tests, and every query."""
    install(session, "monitoring", service=True)
    programs(session, "prometheus", "promtool", "alertmanager", "amtool")
    session.run("python", "-m", "monitoring.dashboards", "--check")
    session.run("pytest", "-m", "not docker", "monitoring", *session.posargs)


@nox.session
def drills(session: nox.Session) -> None:
    """Each alert's condition caused for real, the alert seen at its webhook; `nox -s drills -- ALERT` for one."""
    install(session, "monitoring", service=True)
    programs(session, "prometheus", "promtool", "alertmanager", "amtool")
    session.run("python", "-m", "monitoring.drills", *session.posargs)


@nox.session
def manifests(session: nox.Session) -> None:
    """The Kubernetes manifests: rendered, held to the schemas and to Trivy's checks. Needs kubectl."""
    install(session, "manifests")
    programs(session, "trivy")
    session.run("pytest", "k8s/tests", *session.posargs)


@nox.session
def e2e(session: nox.Session) -> None:
    """Deploy to a kind cluster, and prove what that promises: `nox -s e2e -- restore` for one proof."""
    install(session, "e2e", service=True)
    programs(session, "syft", "trivy")
    session.run("python", "-m", "e2e", *session.posargs)


@nox.session
def new_service(session: nox.Session) -> None:
    """Write a new service from the template, with the whole road to production: `./dev new-service NAME`."""
    install(session, "template")
    session.run("python", "-m", "tooling.new_service", *session.posargs)
    session.run("python", "-m", "monitoring.dashboards")
    session.notify("openapi")


@nox.session
def rehearse(session: nox.Session) -> None:
    """The workflows, run by act on this machine: each event, and what each job comes to; needs Docker."""
    install(session, "dev")
    programs(session, "act")
    session.run("python", "-m", "tooling.rehearsal", *session.posargs)


@nox.session
def new_service_proof(session: nox.Session) -> None:
    """A service from the template takes the whole road in a scratch copy; `-- --quick` for style, tests and sast."""
    install(session, "dev")
    session.run("python", "-m", "e2e.new_service", *session.posargs)


@nox.session
def sync(session: nox.Session) -> None:
    """Offline clients over connections that break, 10,000 steps on each database: in the end all agree."""
    install(session, "test", service=True)
    session.run("pytest", "-m", "sync", "services", *session.posargs)


@nox.session
def mutation(session: nox.Session) -> None:
    """Defects of one operator in the core, and those that no test fails for; `nox -s mutation -- hpa` for one area."""
    install(session, "test", service=True)
    if not session.posargs:
        session.run("python", "-m", "tooling.canaries", "mutation")
    session.run("python", "-m", "tooling.mutation", *session.posargs)


@nox.session
def packages(session: nox.Session) -> None:
    """The packages as a new user has them: installed into an empty environment, tried in an empty project."""
    install(session, "test", service=True)
    session.run("pytest", "-m", "index", "packages", *session.posargs)


@nox.session
def previous_version(session: nox.Session) -> None:
    """The last release's code on this checkout's schema: its own tests and this checkout's, on both databases."""
    install(session, "test", service=True)
    session.run("python", "-m", "tooling.canaries", "previous_version")
    session.run("python", "-m", "tooling.previous_version")


@nox.session
def lock(session: nox.Session) -> None:
    """Renew the locks: `nox -s lock` for all of them, `nox -s lock -- test --upgrade` for one."""
    install(session, "dev")
    flags = [argument for argument in session.posargs if argument.startswith("-")]
    own = {one.name: one for one in project.services()}
    names = [argument for argument in session.posargs if not argument.startswith("-")] or [*own, *GROUPS]
    base = ["uv", "pip", "compile", "--universal", "--python-version=3.11", "--generate-hashes", "--no-emit-index-url"]
    base += ["--no-header", "--quiet", *flags]
    base += [f"--no-emit-package={one.name.replace('_', '-')}" for one in project.distributions()]
    for name in names:
        if name in own:
            session.run(*base, f"{own[name].path}/pyproject.toml", "-o", f"{own[name].path}/requirements.txt")
        else:
            alone = name in {"node", "scanners", "wapiti", "wheels"}  # no service is imported there
            constraints = [option for one in project.services() for option in ("-c", f"{one.path}/requirements.txt")]
            session.run(*base, *([] if alone else constraints), "--group", name, "-o", f"requirements/{name}.txt")
        if name == "node":
            install(session, "node")
            lock_only = ("--package-lock-only", "--omit-lockfile-registry-resolved")
            session.run("npm", "install", "--prefix=requirements/node", *lock_only)
