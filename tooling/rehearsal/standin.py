"""What a stand-in for an action does on disk: `python standin.py NAME`, with the inputs of the real one.

It refuses what GitHub refuses: a right that the job's token lacks, an artifact's name that is taken, code scanning
where there is none. Only the standard library is imported: jobs run it by any Python.
"""

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HOME = Path(os.environ["REHEARSAL"])
EVENT = json.loads((HOME / "event.json").read_text())
JOB = os.environ.get("GITHUB_JOB", "")


def action_input(name: str, default: str = "") -> str:
    """Return an input of the action."""
    return os.environ.get(f"ACTION_INPUT_{name}", "") or default


def need(**rights: str) -> None:
    """End with an error unless the job's token has these rights; a fork's token may only read."""
    granted = json.loads((HOME / "permissions.json").read_text())[JOB]
    for scope, right in rights.items():
        has = granted.get(scope.replace("_", "-"), "")
        if has not in {"write", right}:
            sys.exit(f"the token of the job {JOB} lacks {scope.replace('_', '-')}: {right}")
        if right == "write" and EVENT["fork"]:
            sys.exit(f"the token of a fork's request may not write {scope.replace('_', '-')}")


def checkout() -> None:
    """Clone the commit, alone or with its history."""
    need(contents="read")
    depth = action_input("fetch-depth", "1")
    command = ["git", "clone", "--quiet", "--no-tags", *([] if depth == "0" else [f"--depth={depth}"])]
    subprocess.run([*command, (HOME / "origin").as_uri(), "."], check=True)
    if depth == "0":
        subprocess.run(["git", "fetch", "--quiet", "--tags", "origin"], check=True)


def setup_python() -> None:
    """Exit where `python-version` is no version of Python 3; the stand-in for `dev` checks the job's own."""
    if not re.fullmatch(r"3\.\d+", action_input("python-version")):
        sys.exit(f"there is no Python {action_input('python-version')!r}")


def cache() -> None:
    """Restore what an earlier run kept: a file that must never be executed."""
    for path in action_input("path").split():
        place = Path(path).expanduser()
        place.mkdir(parents=True, exist_ok=True)
        (place / "from-a-cache").write_text("#!/bin/sh\nexit 99\n")


def upload() -> None:
    """Keep a folder under a name that no other artifact of the run has; a folder that is not there is a warning."""
    target, source = HOME / "artifacts" / action_input("name"), Path(action_input("path"))
    if not source.exists():
        print(f"warning: no files were found with the path {source}")
        return
    if target.exists():
        sys.exit(f"an artifact with the name {action_input('name')} already exists")
    shutil.copytree(source, target)


def download() -> None:
    """Bring back artifacts: each into a folder of its name, but a single one into the path itself."""
    artifacts = [
        one for one in sorted((HOME / "artifacts").glob("*")) if matches(one.name, action_input("pattern", "*"))
    ]
    path = Path(action_input("path", "."))
    for one in artifacts:
        shutil.copytree(one, path if len(artifacts) == 1 else path / one.name, dirs_exist_ok=True)


def matches(name: str, pattern: str) -> bool:
    """Return whether a name matches a pattern such as `{build,image}*`."""
    if braces := re.search(r"\{([^}]*)\}", pattern):
        return any(matches(name, pattern.replace(braces[0], one, 1)) for one in braces[1].split(","))
    return fnmatch.fnmatchcase(name, pattern)


def sarif() -> None:
    """Take the findings where code scanning is on."""
    need(security_events="write", **({"actions": "read"} if EVENT["private"] else {}))
    if EVENT["private"] and not EVENT["paid"]:
        sys.exit("code scanning is not enabled for this repository")
    json.loads(Path(action_input("sarif_file")).read_text())


def login() -> None:
    """Log in to the registry; the stand-in accepts every account."""
    need(packages="read")


def attest() -> None:
    """Attest an image by its digest, with its SBOM where there is one."""
    need(attestations="write", id_token="write", packages="write")
    if EVENT["private"] and not EVENT["paid"]:
        sys.exit("attestations are not available for this repository")
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", action_input("subject-digest")):
        sys.exit(f"{action_input('subject-digest')!r} is no digest")
    if bom := action_input("sbom-path"):
        json.loads(Path(bom).read_text())


def cloud() -> None:
    """Be let into a cloud's account."""
    need(id_token="write")


def gh() -> None:
    """Record a call of GitHub's program."""
    words = sys.argv[2:]
    need(**({"contents": "write"} if words[0] == "release" else {"issues": "write"}))
    with (HOME / "gh.log").open("a") as log:
        log.write(" ".join(words) + "\n")
    if words[:2] == ["issue", "list"]:
        print("[]")


ACTIONS = {
    "actions/checkout": checkout,
    "actions/setup-python": setup_python,
    "actions/cache": cache,
    "actions/upload-artifact": upload,
    "actions/download-artifact": download,
    "actions/attest": attest,
    "github/codeql-action/upload-sarif": sarif,
    "docker/login-action": login,
    "aws-actions/configure-aws-credentials": cloud,
    "google-github-actions/auth": cloud,
    "google-github-actions/get-gke-credentials": cloud,
    "gh": gh,
}

if __name__ == "__main__":
    ACTIONS[sys.argv[1]]()
