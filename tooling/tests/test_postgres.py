"""The tests' PostgreSQL is the one that ships."""

import re
from pathlib import Path

import psycopg

from tooling.postgres import postgres
from tooling.project import ROOT
from tooling.tools import tracked

IMAGE = re.compile(r"image: \S*/postgres:(\d+)")


def test_the_tests_run_the_major_version_that_compose_and_the_cluster_run() -> None:
    shipped = {
        Path(path): int(major) for path in tracked(ROOT, "*.yaml") for major in IMAGE.findall((ROOT / path).read_text())
    }
    assert {Path("compose.yaml"), Path("k8s/components/database/single/postgres.yaml")} <= set(shipped)
    with postgres() as url, psycopg.connect(url) as connection:
        major = connection.info.server_version // 10_000
    assert set(shipped.values()) == {major}, shipped
