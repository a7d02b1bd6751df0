"""Planted defects for the sast stage."""

import json
import subprocess
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import msgspec

from tooling import baseline, excuses, locks, patterns, sast, sql
from tooling.baseline import Baseline
from tooling.canaries import canary
from tooling.canaries.fixtures import FLASK_0_12, PLANTED_ADVISORIES, answering, plant, safety_servers
from tooling.findings import Scan, check_waivers, held
from tooling.tools import tracked

LOCK = "requirements.txt"
CLOSED = "http://127.0.0.1:9/v1/query"  # the discard port: nothing listens


def commit(folder: Path, message: str) -> None:
    """Commit everything in the canary's folder."""
    identity = ["-c", "user.name=canary", "-c", "user.email=canary@example.com", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "--quiet"], ["add", "--all"], [*identity, "commit", "--quiet", "-m", message]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)


SHELL = (
    "import subprocess\n\n\ndef run(command: str) -> None:\n    subprocess.run(command, shell=True)  # nosec # noqa\n"
)


@canary("sast/bandit", "a shell that runs any string, excused by a comment", rule="B602", path="planted.py")
def bandit_shell(folder: Path) -> Scan:
    return sast.bandit(folder, [plant(folder, "planted.py", SHELL)])


@canary("sast/bandit", "a file that cannot be parsed", problem="could not read")
def bandit_unparsable(folder: Path) -> Scan:
    return sast.bandit(folder, [plant(folder, "planted.py", "def (:\n")])


@canary("sast/bandit", "no file at all", problem="looked at nothing")
def bandit_nothing(folder: Path) -> Scan:
    return sast.bandit(folder, [])


@canary("sast/ruff", "a shell that runs any string, excused by a comment", rule="S602", path="planted.py")
def ruff_shell(folder: Path) -> Scan:
    return sast.ruff(folder, [plant(folder, "planted.py", SHELL)])


def github_token() -> str:
    """Put together what looks like a GitHub token, so that no file of this repository holds it."""
    return "gh" + "p_" + "q7Zt4LxW9bVd2KmR8yNc5HsJ3fPa6GuE1oTi"


@canary("sast/gitleaks", "a token in a commit that the next one deletes", rule="github-pat", path="settings.py")
def gitleaks_deleted(folder: Path) -> Scan:
    plant(folder, "settings.py", f'TOKEN = "{github_token()}"  # gitleaks:allow\n')
    commit(folder, "add settings")
    plant(folder, "settings.py", "")
    commit(folder, "delete the token")
    return sast.gitleaks(folder)


@canary("sast/gitleaks", "a token that only a merge commit brings", rule="github-pat", path="settings.py")
def gitleaks_merged(folder: Path) -> Scan:
    plant(folder, "a", "")
    commit(folder, "first")
    merge = ["git", "-c", "user.name=canary", "-c", "user.email=canary@example.com", "merge", "--no-ff", "--no-commit"]
    subprocess.run(["git", "checkout", "--quiet", "-b", "other"], cwd=folder, check=True)
    plant(folder, "b", "")
    commit(folder, "second")
    subprocess.run(["git", "checkout", "--quiet", "-"], cwd=folder, check=True)
    subprocess.run([*merge, "--quiet", "other"], cwd=folder, check=True, capture_output=True)
    plant(folder, "settings.py", f'TOKEN = "{github_token()}"\n')
    commit(folder, "merge")
    return sast.gitleaks(folder)


BLINDFOLDS = {
    "a token in what the attributes call binary": (".gitattributes", "* binary\n"),
    "a configuration that allows every file": (".gitleaks.toml", "[allowlist]\npaths = ['.*']\n"),
}

for defect, blindfold in BLINDFOLDS.items():

    @canary("sast/gitleaks", defect, rule="github-pat", path="settings.py")
    def gitleaks_blindfolded(folder: Path, blindfold: tuple[str, str] = blindfold) -> Scan:
        plant(folder, *blindfold)
        plant(folder, "settings.py", f'TOKEN = "{github_token()}"\n')
        commit(folder, "add settings")
        return sast.gitleaks(folder)


@canary("sast/gitleaks", "a clone without its history", problem="this clone is shallow")
def gitleaks_shallow(folder: Path) -> Scan:
    origin = folder / "origin"
    plant(origin, "settings.py", f'TOKEN = "{github_token()}"\n')
    commit(origin, "add settings")
    plant(origin, "settings.py", "")
    commit(origin, "delete the token")
    clone = ["git", "clone", "--quiet", "--depth=1", origin.as_uri(), str(folder / "clone")]
    subprocess.run(clone, check=True)
    return sast.gitleaks(folder / "clone")


@canary("sast/gitleaks", "a downloaded archive, which has no history", problem="this is no Git repository")
def gitleaks_archive(folder: Path) -> Scan:
    return sast.gitleaks(folder)


@canary("sast/gitleaks", "a history that cannot be read", problem="git ended with code 128")
def gitleaks_crash(folder: Path) -> Scan:
    plant(folder, "settings.py", "")
    commit(folder, "add settings")
    plant(folder, ".git/refs/heads/lost", f"{'1' * 40}\n")
    return sast.gitleaks(folder)


@canary("sast/pip-audit", "a requirement with a known vulnerability", rule="CVE-2018-1000656", path=LOCK)
def pip_audit_vulnerable(folder: Path) -> Scan:
    lock = plant(folder, LOCK, "flask==0.12\n")
    with answering({"flask": FLASK_0_12}) as url:
        return msgspec.structs.replace(sast.pip_audit(folder, [lock], f"{url}/v1/query"), database=PLANTED_ADVISORIES)


@canary("sast/pip-audit", "an unreachable source of advisories", problem="cannot be read")
def pip_audit_unreachable(folder: Path) -> Scan:
    return sast.pip_audit(folder, [plant(folder, LOCK, "flask==0.12\n")], CLOSED)


@canary("sast/safety", "a requirement with a known vulnerability", rule="pyup.io-36388", path=LOCK)
def safety_vulnerable(folder: Path) -> Scan:
    lock = plant(folder, LOCK, "flask==0.12 \\\n    --hash=sha256:0000\n")
    with safety_servers() as settings:
        scan = sast.safety(folder, [lock], "planted", **settings)
    return msgspec.structs.replace(scan, database=PLANTED_ADVISORIES)


@canary("sast/safety", "no key to Safety's service", problem="has no key")
def safety_without_key(folder: Path) -> Scan:
    return sast.safety(folder, [plant(folder, LOCK, "flask==0.12\n")])


@canary("sast/safety", "an unreachable service", problem="cannot be reached")
def safety_unreachable(folder: Path) -> Scan:
    closed = {
        "SAFETY_AUTH_SERVER_URL": CLOSED,
        "SAFETY_DATA_API_BASE_URL": CLOSED,
        "SAFETY_PLATFORM_API_BASE_URL": CLOSED,
    }
    return sast.safety(folder, [plant(folder, LOCK, "flask==0.12\n")], "planted", **closed)


BACKTRACKING = """Title = Annotated[str, Meta(pattern=r"^[^\\x00]*[^\\s\\x00][^\\x00]*$")]\n"""


@canary("sast/recheck", "a pattern of quadratic time", rule="polynomial", path="planted.py")
def recheck_quadratic(folder: Path) -> Scan:
    return patterns.linear(folder, [plant(folder, "planted.py", BACKTRACKING)])


@canary("sast/recheck", "a pattern of exponential time", rule="exponential", path="planted.py")
def recheck_exponential(folder: Path) -> Scan:
    return patterns.linear(folder, [plant(folder, "planted.py", "re.compile(r'(a+)+$')\n")])


@canary("sast/recheck", "a pattern that is put together at run time", problem="not written out")
def recheck_dynamic(folder: Path) -> Scan:
    return patterns.linear(folder, [plant(folder, "planted.py", "re.compile(prefix + r'a+')\n")])


@canary("sast/recheck", "no pattern at all", problem="looked at nothing")
def recheck_nothing(folder: Path) -> Scan:
    return patterns.linear(folder, [plant(folder, "planted.py", "")])


@canary("sast/hadolint", "a package of any version, excused by a comment", rule="DL3008", path="Dockerfile")
def hadolint_unpinned(folder: Path) -> Scan:
    lines = "FROM debian:13\n# hadolint ignore=DL3008\nRUN apt-get install -y --no-install-recommends curl\nUSER 1000\n"
    return sast.hadolint(folder, [plant(folder, "Dockerfile", lines)])


@canary("sast/hadolint", "a Dockerfile that is not there", problem="hadolint ended with code 1")
def hadolint_missing(folder: Path) -> Scan:
    return sast.hadolint(folder, ["Dockerfile"])


@canary("sast/trivy-config", "an image that runs as root", rule="DS-0002", path="Dockerfile")
def trivy_root(folder: Path) -> Scan:
    return sast.trivy_config(folder, [plant(folder, "Dockerfile", 'FROM debian:13\nCMD ["sleep", "1"]\n')], [])


@canary("sast/trivy-config", "a privileged pod", rule="KSV-0017", path="overlay")
def trivy_privileged(folder: Path) -> Scan:
    plant(folder, "overlay/kustomization.yaml", "resources: [pod.yaml]\n")
    container = "{name: planted, image: 'debian:13', securityContext: {privileged: true}}"
    pod = f"apiVersion: v1\nkind: Pod\nmetadata: {{name: planted}}\nspec: {{containers: [{container}]}}\n"
    plant(folder, "overlay/pod.yaml", pod)
    return sast.trivy_config(folder, [], ["overlay"])


@canary("sast/trivy-config", "an overlay that kustomize cannot render", problem="kubectl ended with code 1")
def trivy_unrendered(folder: Path) -> Scan:
    plant(folder, "overlay/kustomization.yaml", "resources: [missing.yaml]\n")
    return sast.trivy_config(folder, [], ["overlay"])


WORKFLOW = """on: push
permissions: {{}}
jobs:
  planted:
    runs-on: ubuntu-24.04
    steps:
      - {step}
"""


@canary(
    "sast/actionlint", "a shell step that takes a stranger's words", rule="expression", path=".github/workflows/w.yml"
)
def actionlint_injection(folder: Path) -> Scan:
    workflow = WORKFLOW.format(step="run: echo ${{ github.event.issue.title }}")
    return sast.actionlint(folder, [plant(folder, ".github/workflows/w.yml", workflow)])


@canary("sast/actionlint", "no workflow at all", problem="looked at nothing")
def actionlint_nothing(folder: Path) -> Scan:
    return sast.actionlint(folder, [])


@canary("sast/shellcheck", "a folder from a variable, removed unquoted, excused", rule="SC2115", path="clean")
def shellcheck_removal(folder: Path) -> Scan:
    plant(folder, "clean", "#!/usr/bin/env bash\n# shell" + "check disable=all\nrm -rf $1/*\n")
    return sast.shellcheck(folder, ["clean"])


@canary("sast/shellcheck", "a script that cannot be parsed", rule="SC1073", path="broken.sh")
def shellcheck_unparsable(folder: Path) -> Scan:
    return sast.shellcheck(folder, [plant(folder, "broken.sh", "#!/bin/sh\nif true; then\n")])


@canary("sast/shellcheck", "a script without an ending that a commit adds", rule="SC2086", path="tool")
def shellcheck_any_name(folder: Path) -> Scan:
    plant(folder, "tool", "#! /bin/sh -e\necho $1\n")
    commit(folder, "add a tool")
    return sast.shellcheck(folder, sast.scripts(folder))


@canary("sast/shellcheck", "no script at all", problem="looked at nothing")
def shellcheck_nothing(folder: Path) -> Scan:
    return sast.shellcheck(folder, [])


@canary("sast/eslint", "a method that replaces another of its name", rule="no-dupe-class-members", path="twice.js")
def eslint_twice(folder: Path) -> Scan:
    page = "// eslint" + "-disable no-dupe-class-members\nexport class A {\n  follow() {}\n  follow() {}\n}\n"
    return sast.eslint(folder, [plant(folder, "twice.js", page)])


@canary("sast/eslint", "markup made of what somebody typed", rule="no-restricted-properties", path="list.js")
def typed_markup(folder: Path) -> Scan:
    return sast.eslint(folder, [plant(folder, "list.js", "export const show = (e, t) => { e.outerHTML = t; };\n")])


@canary("sast/eslint", "a name that nothing declares", rule="no-undef", path="script.mjs")
def eslint_undeclared(folder: Path) -> Scan:
    plant(folder, "script.mjs", "export const shown = () => fnud;\n")
    commit(folder, "add a script")
    return sast.eslint(folder, tracked(folder, *sast.JAVASCRIPT))


@canary("sast/eslint", "a script that cannot be parsed", rule="unread", path="broken.js")
def eslint_unparsable(folder: Path) -> Scan:
    return sast.eslint(folder, [plant(folder, "broken.js", "export {\n")])


@canary("sast/eslint", "no script at all", problem="looked at nothing")
def eslint_nothing(folder: Path) -> Scan:
    return sast.eslint(folder, [])


@canary("sast/zizmor", "an action that is not pinned", rule="unpinned-uses", path=".github/workflows/w.yml")
def zizmor_unpinned(folder: Path) -> Scan:
    workflow = WORKFLOW.format(step="uses: actions/checkout@v6")
    return sast.zizmor(folder, [plant(folder, ".github/workflows/w.yml", workflow)])


WAIVER = (
    '[[waiver]]\nkind = "accepted risk"\ntool = "bandit"\nrule = "B602"\nplace = "a.py"\nreason = "planted"\n'
    'fingerprints = ["0123456789abcdef"]\nowner = "canary"\nexpires = {}\n'
)


def today() -> date:
    return datetime.now(UTC).date()


@canary("sast/waivers", "an expired waiver", rule="expired-waiver", path="waivers.toml")
def waiver_expired(folder: Path) -> Scan:
    return check_waivers(folder / plant(folder, "waivers.toml", WAIVER.format(today() - timedelta(days=1))))


@canary("sast/waivers", "a waiver for longer than 90 days", rule="long-waiver", path="waivers.toml")
def waiver_long(folder: Path) -> Scan:
    return check_waivers(folder / plant(folder, "waivers.toml", WAIVER.format(today() + timedelta(days=91))))


@canary("sast/waivers", "an accepted risk without an owner", problem="an accepted risk has an `owner` and `expires`")
def waiver_unowned(folder: Path) -> Scan:
    lines = WAIVER.format(today()).replace('"canary"', '""')
    return check_waivers(folder / plant(folder, "waivers.toml", lines))


@canary("sast/waivers", "a failing test, waived", problem="findings of `service-tests` cannot be waived")
def waiver_of_a_test(folder: Path) -> Scan:
    lines = WAIVER.format(today()).replace('"bandit"', '"service-tests"').replace('"B602"', '"failed-test"')
    return check_waivers(folder / plant(folder, "waivers.toml", lines))


@canary("sast/waivers", "a waiver for every finding of a rule in a file", problem="`fingerprints`")
def waiver_of_a_file(folder: Path) -> Scan:
    lines = WAIVER.format(today()).replace('fingerprints = ["0123456789abcdef"]\n', "")
    return check_waivers(folder / plant(folder, "waivers.toml", lines))


def excused(folder: Path, name: str, content: str) -> Scan:
    """Scan a checkout whose baseline was committed before the file came."""
    plant(folder, name, "")
    plant(folder, "pyproject.toml", "[tool.ruff]\n")
    plant(folder, "baseline.toml", baseline.render(Baseline()))
    commit(folder, "trusted")
    trusted = excuses.measured(folder)
    plant(folder, name, content)
    return excuses.scan(folder, trusted)


@canary("sast/excuses", "a line that the linter must not see", rule="new-excuse", path="a.py")
def excuse_noqa(folder: Path) -> Scan:
    return excused(folder, "a.py", "import os  # noqa: F401\n")


@canary("sast/excuses", "a type that is ignored", rule="new-excuse", path="a.py")
def excuse_type(folder: Path) -> Scan:
    return excused(folder, "a.py", 'a: int = "1"  # type: ignore[assignment]\n')


@canary("sast/excuses", "a branch that needs no test", rule="new-excuse", path="a.py")
def excuse_coverage(folder: Path) -> Scan:
    return excused(folder, "a.py", "if a:  # pragma: no cover\n    b()\n")


@canary("sast/excuses", "a skip of some cases of a test", rule="new-excuse", path="test_a.py")
def excuse_skip(folder: Path) -> Scan:
    case = "pytest.param(2, marks=pytest.mark.skip)"
    return excused(folder, "test_a.py", f'@parametrize("n", [1, {case}])\ndef test_a(n):\n    assert n\n')


@canary("sast/excuses", "a test that asserts nothing", rule="new-excuse", path="test_a.py")
def excuse_assertion(folder: Path) -> Scan:
    return excused(folder, "test_a.py", "def test_a():\n    run()\n    assert True\n")


@canary("sast/excuses", "a folder that the linter leaves out", rule="changed-configuration", path="pyproject.toml")
def excuse_excluded(folder: Path) -> Scan:
    return excused(folder, "pyproject.toml", '[tool.ruff]\nextend-exclude = ["services"]\n')


@canary("sast/excuses", "a failure that is caught by the test itself", rule="new-excuse", path="test_a.py")
def excuse_caught(folder: Path) -> Scan:
    return excused(folder, "test_a.py", "def test_a():\n    with suppress(AssertionError):\n        assert a == b\n")


@canary("sast/excuses", "a hook that turns failures into passes", rule="new-excuse", path="conftest.py")
def excuse_hook(folder: Path) -> Scan:
    return excused(folder, "conftest.py", "def pytest_runtest_" + "makereport():\n    return passed\n")


@canary("sast/excuses", "rules of its own in one folder", rule="changed-configuration", path="a/pyproject.toml")
def excuse_nested(folder: Path) -> Scan:
    return excused(folder, "a/pyproject.toml", '[tool.ruff.lint]\nignore = ["ALL"]\n')


@canary("sast/excuses", "a severity that no longer fails", rule="changed-configuration", path="tooling/sast.py")
def excuse_setting(folder: Path) -> Scan:
    return excused(folder, "tooling/sast.py", "Finding(blocks=severity >= Severity.HIGH)\n")


@canary(
    "sast/excuses", "a configuration that gitleaks did not have", rule="changed-configuration", path=".gitleaks.toml"
)
def excuse_configured(folder: Path) -> Scan:
    plant(folder, "a.py", "")
    trusted = Baseline()
    plant(folder, "baseline.toml", baseline.render(trusted))
    plant(folder, ".gitleaks.toml", "[allowlist]\npaths = ['.*']\n")
    commit(folder, "trusted")
    return excuses.scan(folder, trusted)


@canary("sast/excuses", "a figure that is lowered without a reason", rule="weaker-baseline", path="baseline.toml")
def excuse_unexplained(folder: Path) -> Scan:
    for targets in (9, 8):
        plant(folder, "baseline.toml", baseline.render(Baseline(because="none", gates={"sast/bandit": targets})))
        commit(folder, "figures")
    return excuses.scan(folder, Baseline())


@canary("sast/baseline", "a gate that is taken out together with its canary", rule="missing-gate", path="bandit")
def gate_taken_out(folder: Path) -> Scan:  # noqa: ARG001 - a canary's shape
    return held("sast", [], Baseline(gates={"sast/bandit": 9, "test/types": 9}))


@canary("sast/baseline", "a gate that looks at fewer files", rule="fewer-targets", path="bandit")
def gate_narrowed(folder: Path) -> Scan:
    files = [plant(folder, name, "") for name in ("a.py", "b.py")]
    return held("sast", [sast.bandit(folder, files[:1])], Baseline(gates={"sast/bandit": 2}))


ASSEMBLED = {
    "a filter put together from fragments": 'where = " AND ".join(parts)\nquery = select(tasks).where(text(where))\n',
    "an order that a request chooses": "query = query.order_by(text(order))\n",
    "a column by the name in a request": 'query = query.order_by(literal_column("tasks." + name))\n',
    "a driver's statement in a variable": 'sql = "SELECT 1"\nsql += f" WHERE {a}"\ncursor.execute(sql)\n',
}

for defect, lines in ASSEMBLED.items():

    @canary("sast/sql", defect, rule="assembled-sql", path="store.py")
    def sql_of_fragments(folder: Path, lines: str = lines) -> Scan:
        return sql.scan(folder, [plant(folder, "store.py", lines)])


@canary("sast/sql", "no store at all", problem="looked at nothing")
def sql_nothing(folder: Path) -> Scan:
    return sql.scan(folder, [])


HASH = f"--hash=sha256:{'0' * 64}"
LOCKED = f"flask==3.1.3 \\\n    {HASH} \\\n    {HASH.replace('0', '1')}\n    # via planted\n"


def locked(folder: Path, lock: str, dockerfile: str = "", group: str = '["flask>=3"]') -> Scan:
    """Scan a project with two equal groups, of which one has another lock."""
    plant(folder, "pyproject.toml", f'[dependency-groups]\na = ["flask"]\nb = {group}\n')
    plant(folder, "requirements/a.txt", LOCKED)
    plant(folder, "requirements/b.txt", lock)
    return locks.scan(folder, [plant(folder, "Dockerfile", dockerfile)])


@canary("sast/locks", "a package without a hash", rule="unhashed", path="requirements/b.txt")
def lock_unhashed(folder: Path) -> Scan:
    return locked(folder, "flask==3.1.3\n")


@canary("sast/locks", "a package that is not pinned", rule="unhashed", path="requirements/b.txt")
def lock_unpinned(folder: Path) -> Scan:
    return locked(folder, f"flask>=3 {HASH}\n")


@canary("sast/locks", "one hash of two taken out", rule="missing-hash", path="requirements/b.txt")
def lock_one_hash(folder: Path) -> Scan:
    return locked(folder, f"flask==3.1.3 {HASH}\n")


@canary("sast/locks", "another source of packages in a lock", rule="unhashed", path="requirements/b.txt")
def lock_source(folder: Path) -> Scan:
    return locked(folder, "--find-links wheels\n" + LOCKED)


@canary("sast/locks", "a dependency that is not locked", rule="unlocked", path="requirements/b.txt")
def lock_lacking(folder: Path) -> Scan:
    return locked(folder, LOCKED, group='["flask", "httpx"]')


@canary("sast/locks", "a version that pyproject.toml excludes", rule="unlocked", path="requirements/b.txt")
def lock_older(folder: Path) -> Scan:
    return locked(folder, LOCKED, group='["flask>=4"]')


@canary("sast/locks", "a group without a lock", rule="no-lock", path="requirements/c.txt")
def lock_missing(folder: Path) -> Scan:
    return locked(folder, LOCKED, group='["flask"]\nc = ["flask"]')


@canary("sast/locks", "a lock of no group", rule="orphan", path="requirements/c.txt")
def lock_orphan(folder: Path) -> Scan:
    plant(folder, "requirements/c.txt", LOCKED)
    return locked(folder, LOCKED)


NPM = "requirements/node/package-lock.json"


def locked_by_npm(folder: Path, **package: str) -> Scan:
    """Scan a project whose one package of npm has these fields in its lock."""
    plant(folder, "requirements/node/package.json", '{"dependencies": {"eslint": "10.0.0"}}')
    plant(folder, NPM, json.dumps({"packages": {"": {}, "node_modules/eslint": package}}))
    return locked(folder, LOCKED)


INTEGRITY = f"sha512-{'A' * 86}=="


@canary("sast/locks", "a package of npm without a hash", rule="unhashed", path=NPM)
def npm_unhashed(folder: Path) -> Scan:
    return locked_by_npm(folder, version="10.0.0")


@canary("sast/locks", "a package of npm with a weak hash", rule="unhashed", path=NPM)
def npm_weak(folder: Path) -> Scan:
    return locked_by_npm(folder, version="10.0.0", integrity=f"sha1-{'A' * 27}=")


@canary("sast/locks", "a package of npm from a stranger's server", rule="unhashed", path=NPM)
def npm_elsewhere(folder: Path) -> Scan:
    return locked_by_npm(folder, version="10.0.0", integrity=INTEGRITY, resolved="http://npm.example.org/eslint.tgz")


@canary("sast/locks", "a package of npm in another version than package.json has", rule="unlocked", path=NPM)
def npm_older(folder: Path) -> Scan:
    return locked_by_npm(folder, version="9.0.0", integrity=INTEGRITY)


@canary("sast/locks", "an image of unhashed packages", rule="unhashed-install", path="Dockerfile")
def image_unhashed(folder: Path) -> Scan:
    return locked(folder, LOCKED, "FROM python:3.13\nRUN true && pip install \\\n -r requirements.txt\n")
