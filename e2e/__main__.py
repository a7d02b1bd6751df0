"""Deploy to a kind cluster, and prove on it what a deploy promises: `python -m e2e [PROOF ...]`.

Everything goes to reports/e2e/: the deploy's timeline, and for each proof a record, JSON and a page.
Exit codes: 0 all proven, 1 something does not hold, 2 could not be tried.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import httpx

from e2e import proofs
from e2e.archive import recovering, storage
from e2e.clouds import clouds
from e2e.database import outliving
from e2e.page import staying_open
from e2e.proofs import FOLDER, NIGHTLY, Bench, Proof
from e2e.queue_age import scaling_by_age
from e2e.upgrade import upgrading
from e2e.versions import replacing
from locust_verdict import VerdictError
from locust_verdict.record import Recorder
from tooling.deploy import DeployError, cluster
from tooling.deploy.release import Target, deploy
from tooling.deploy.steps import Steps
from tooling.images import trust
from tooling.project import ToolingError, service

LONG = {
    "archive": recovering,
    "cloud": clouds,
    "database": outliving,
    "page": staying_open,
    "queue-age": scaling_by_age,
    "upgrade": upgrading,
    "versions": replacing,
}

REPLICATED = {"archive", "database", "upgrade"}
"""Proofs of a deploy with the replicated database; the others have the single one."""

PROOFS = proofs.PROOFS | {name: (title, LONG[name]) for name, title in NIGHTLY.items()}


def run(name: str, bench: Bench) -> bool:
    """Run one proof, and write its record and page, also when it breaks off. Return whether it is proven."""
    title, prove = PROOFS[name]
    folder = FOLDER / name
    record = folder / "record.jsonl"
    record.unlink(missing_ok=True)
    steps = Steps(title)
    steps.log(f"\n{name}: {title}")
    with Recorder(record) as recorder:
        recorder.run(title, image=bench.image)
        proof = Proof(name, title, recorder, steps)
        try:
            prove(bench, proof)
        except (DeployError, httpx.HTTPError) as error:
            evidence = getattr(error, "evidence", "")
            proof.check("the proof runs to its end", f"{error!r}\n{evidence}", holds=False)
        proven = proof.write(folder)
    for check in proof.checks:
        steps.log(f"  {'holds' if check.holds else 'FAILS'}: {check.claim}: {check.measured}")
    steps.log(f"  {folder / 'proof.html'}")
    return proven


def prepare(steps: Steps, *, database: str, archived: bool, accept_unassessed: bool) -> Bench:
    """Deploy to the local cluster, which is made where there is none; its timeline is part of the record.

    With `archived` the database has an archive, in an object storage of the cluster.
    """
    error = ""
    try:
        cluster.check()
        from_nothing = not cluster.exists()
        with steps.step("image") as log:
            image = trust.built_here(service(), log, accept_unassessed=accept_unassessed)
        began = steps.seconds
        place = storage(steps) if archived else ""
        target = Target.of("kind", database=database, place=place)
        deploy(target, image, steps)
        if from_nothing:
            steps.marks["first 200 from having the image and no cluster"] = steps.marks["first 200"] - began
    except (ToolingError, VerdictError) as failure:
        error = str(failure)
        raise
    finally:
        steps.write(FOLDER / "deploy", error)
    return Bench(target, image, accept_unassessed)


def main(arguments: list[str] | None = None) -> int:
    """Prove, and remove the cluster unless it was there before or is to be kept."""
    parser = argparse.ArgumentParser(prog="python -m e2e", description=__doc__)
    parser.add_argument(
        "proofs", metavar="PROOF", nargs="*", help=f"{', '.join(PROOFS)}; by default all but {', '.join(NIGHTLY)}"
    )
    parser.add_argument("--accept-unassessed", action="store_true", help="go on without a vulnerability database")
    parser.add_argument("--keep", action="store_true", help="leave the cluster running")
    options = parser.parse_args(arguments)
    names = options.proofs or list(proofs.PROOFS)
    if unknown := set(names) - set(PROOFS):
        parser.error(f"there is no proof {', '.join(unknown)}; there are {', '.join(PROOFS)}")
    if set(names) & REPLICATED and set(names) - REPLICATED:
        parser.error(f"{', '.join(sorted(REPLICATED))}: needs a cluster with another database: run it alone")
    database = "replicated" if set(names) & REPLICATED else "single"
    began, keep = time.time(), options.keep
    try:
        keep = keep or cluster.exists()
        archived, accept = "archive" in names, options.accept_unassessed
        bench = prepare(Steps("deploy"), database=database, archived=archived, accept_unassessed=accept)
        proven = {name: run(name, bench) for name in names}
    except VerdictError as error:
        print(f"e2e: {error}", file=sys.stderr)
        return 2
    except ToolingError as error:
        print(f"e2e: {error}\n{error.evidence}", file=sys.stderr)
        return 2
    finally:
        if not keep:
            cluster.destroy()
    summary = {"proofs": proven, "seconds": round(time.time() - began)}
    Path(FOLDER / "e2e.json").write_text(json.dumps(summary, indent=2))
    print(f"{sum(proven.values())} of {len(proven)} proven in {summary['seconds']} s: {FOLDER}")
    return 0 if all(proven.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
