"""Prove that a new service has the whole road to production: `python -m e2e.new_service [STEP ...]`.

In a scratch copy of the last commit a service is written from the template; the steps have to pass without another
edit, and each planted defect has to make its step fail. Results go to reports/new_service_proof/proof.json.
Exit codes: 0 proven, 1 something does not hold, 2 could not be tried.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from tooling.project import CACHE, REPORTS, ROOT, STAGES, services

NAME = "echo"
FOLDER = Path("services", NAME)
FILES = (
    "compose.yaml",
    "Dockerfile",
    "k8s/base/deployment.yaml",
    "monitoring/rules.yml",
    "released-openapi.json",
    "src/echo/app.py",
)
"""Some of what a new service has to consist of."""

STEPS: dict[str, tuple[str, ...]] = {
    "lint": ("lint",),
    "tests": ("test", "-q", str(FOLDER), "monitoring/tests/test_services.py", "tooling/tests/test_compose.py"),
    **{stage: (stage,) for stage in STAGES},
    "canaries": ("canaries",),
    "manifests": ("manifests",),
    "monitoring": ("monitoring",),
    **{f"deploy-{name}": ("deploy", "--name", name) for name in (*(service.name for service in services()), NAME)},
}
"""Both services are deployed, one beside the other."""

QUICK = ("lint", "tests", "sast")


@dataclass(frozen=True)
class Defect:
    """A change of one file of the new service that a step has to find; its output then names `shown`."""

    what: str
    step: str
    file: str
    old: str
    new: str
    shown: str


DEFECTS = (
    Defect("a wrong type", "lint", "src/echo/app.py", "text: str", "text: int", "src/echo/app.py"),
    Defect("a wrong response", "tests", "src/echo/app.py", ", {query", "; {query", "test_a_guest_is_greeted"),
    Defect("an alert without a test", "tests", "monitoring/tests.yml", "alertname: EchoDown", "alertname: X", "echo"),
    Defect(
        "a shell that takes any string",
        "sast",
        "src/echo/app.py",
        '    """Return a greeting."""\n',
        '    """Return a greeting."""\n    __import__("subprocess").call(query(Guest).name, shell=True)\n',
        "src/echo/app.py",
    ),
    Defect(
        "a pod that may write to its image",
        "sast",
        "k8s/base/deployment.yaml",
        "readOnlyRootFilesystem: true",
        "readOnlyRootFilesystem: false",
        "KSV-0014",
    ),
    Defect(
        "a response with status 500 for some names",
        "dast",
        "src/echo/app.py",
        "    settings = cast",
        "    assert query(Guest).name.isascii()\n    settings = cast",
        "/greeting",
    ),
)


@dataclass(frozen=True)
class Result:
    """What was done, whether it came out as it has to, and the seconds that it took."""

    what: str
    holds: bool
    seconds: float


class Proof:
    """The scratch copy, and what was seen in it."""

    def __init__(self, folder: Path, log: Path, *, accept_unassessed: bool) -> None:
        self.folder = folder
        self.results: list[Result] = []
        self._log = log
        self._accepted = ["--accept-unassessed"] if accept_unassessed else []

    def check(self, what: str, holds: Callable[[], bool]) -> None:
        """Do something, and note whether it holds."""
        print(f"{what} ...", flush=True)
        started = time.monotonic()
        self.results.append(Result(what, holds(), round(time.monotonic() - started, 1)))
        print(f"  {'holds' if self.results[-1].holds else 'DOES NOT HOLD'}, {self.results[-1].seconds} s", flush=True)

    def run(self, *command: str) -> tuple[int, str]:
        """Return a command's exit code and output; the log has it too."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("VIRTUAL_ENV", "NOX", "PYTHON"))
        }
        done = subprocess.run(
            command, cwd=self.folder, env=kept, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        with self._log.open("a") as log:
            log.write(f"\n$ {' '.join(command)}\n{done.stdout}exit code {done.returncode}\n")
        return done.returncode, done.stdout

    def dev(self, *arguments: str) -> tuple[int, str]:
        """Do in the scratch copy what `./dev` does, without another tool environment."""
        name, *rest = arguments
        session = name.replace("-", "_")
        if f"def {session}(session: nox.Session)" in (self.folder / "noxfile.py").read_text():
            return self.run(sys.executable, "-m", "nox", "-s", session, "--", *rest)
        return self.run(sys.executable, "-m", "invoke", name, *rest)

    def write_service(self) -> bool:
        """Write the service and commit it; whether it lies in its folder alone."""
        code, _ = self.dev("new-service", NAME)
        _, changed = self.run("git", "status", "--porcelain", "--untracked-files=all")
        paths = [line[3:] for line in changed.splitlines()]
        self.run("git", "add", "--all")
        author = ("-c", "user.name=proof", "-c", "user.email=proof@example.org")
        self.run("git", *author, "commit", "--quiet", "--message=A new service")
        complete = all((self.folder / FOLDER / file).is_file() for file in FILES)
        return code == 0 and complete and all(path.startswith(f"{FOLDER}/") for path in paths)

    def passes(self, step: str) -> bool:
        """Whether a step passes."""
        name, *rest = STEPS[step]
        return self.dev(name, *rest, *(self._accepted if name == "deploy" else []))[0] == 0

    def finds(self, defect: Defect) -> bool:
        """Plant a defect, run its step, take it out again; whether the step failed and named the place."""
        path = self.folder / FOLDER / defect.file
        before = path.read_text()
        if defect.old not in before:
            raise RuntimeError(f"{defect.file} has no {defect.old!r} to plant {defect.what!r} in")
        path.write_text(before.replace(defect.old, defect.new, 1))
        try:
            code, output = self.dev(*STEPS[defect.step])
        finally:
            path.write_text(before)
        return code != 0 and defect.shown in output


def prove(steps: Sequence[str], report: Path, *, accept_unassessed: bool = False) -> bool:
    """Run the proof in a scratch copy, and write its results into a folder; whether all of it holds."""
    report.mkdir(parents=True, exist_ok=True)
    log = report / "output.log"
    log.unlink(missing_ok=True)
    CACHE.mkdir(exist_ok=True)
    with TemporaryDirectory(prefix="new-service-", dir=CACHE) as name:
        folder = Path(name, "repository")
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
        if (tools := CACHE / "tools").exists():
            shutil.copytree(tools, folder / ".cache" / "tools", symlinks=True)
        proof = Proof(folder, log, accept_unassessed=accept_unassessed)
        proof.check(f"./dev new-service {NAME} writes {FOLDER} and nothing else", proof.write_service)
        for step in steps:
            proof.check(f"./dev {' '.join(STEPS[step])} passes", lambda step=step: proof.passes(step))  # type: ignore[misc]
        for defect in DEFECTS:
            if defect.step in steps:
                proof.check(f"{defect.step} finds {defect.what}", lambda defect=defect: proof.finds(defect))  # type: ignore[misc]
        if any(STEPS[step][0] == "deploy" for step in steps):
            proof.dev("destroy")
    (report / "proof.json").write_text(json.dumps([asdict(result) for result in proof.results], indent=1) + "\n")
    table = Table("", "seconds", "")
    for result in proof.results:
        table.add_row(result.what, f"{result.seconds:.1f}", "holds" if result.holds else "does not hold")
    Console(width=100).print(table)
    return all(result.holds for result in proof.results)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prove it; without arguments with every step."""
    parser = argparse.ArgumentParser(
        prog="./dev new_service_proof", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("steps", nargs="*", choices=[*STEPS, []], help=f"some of {', '.join(STEPS)}; all by default")
    parser.add_argument("--quick", action="store_true", help=f"the steps {', '.join(QUICK)}")
    parser.add_argument("--accept-unassessed", action="store_true", help="deploy without a vulnerability database")
    options = parser.parse_args(arguments)
    steps = options.steps or (QUICK if options.quick else tuple(step for step in STEPS if step != "tests"))
    report = REPORTS / "new_service_proof"
    try:
        return 0 if prove(steps, report, accept_unassessed=options.accept_unassessed) else 1
    except (OSError, subprocess.CalledProcessError, RuntimeError) as error:
        print(f"new_service_proof: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
