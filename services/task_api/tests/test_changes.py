import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from msgspec import UNSET
from sqlalchemy import Connection, delete, insert, select, text, update

from task_api import transfer
from task_api.config import Settings
from task_api.store.clearing import clear
from task_api.store.migrations import migrate
from task_api.store.pruning import Most, Pruner
from task_api.tasks import changes, service
from task_api.tasks.model import BadFeedToken, Changes, ChangesQuery, FeedGone, NewTask, TaskChanges
from task_core import changes as store
from task_core.database import Database
from task_core.schema import LOCAL_ACCOUNT, change_feed, change_floors, deleted_tasks, task_changes, tasks

from .conftest import KEY, Client, Lend, log_in

DAY = timedelta(days=1)
POSTGRESQL = pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
SQLITE = pytest.mark.parametrize("settings", ["sqlite"], indirect=True)


def read(database: Database, since: str | None = None, **more: Any) -> Changes:
    wanted = ChangesQuery(since=since or UNSET, **more)
    with database.read() as connection:
        return changes.page(connection, LOCAL_ACCOUNT, wanted)


def begin(database: Database) -> str:
    """Read what there is, and return the token of what comes after."""
    page = read(database)
    while page.more:
        page = read(database, page.next)
    return page.next


def create(database: Database, title: str = "t") -> int:
    with database.write() as connection:
        return service.create(connection, LOCAL_ACCOUNT, NewTask(title=title)).task.id


def apply(copy: dict[int, Any], page: dict[str, Any]) -> None:
    """Do what the documentation requires of a client."""
    for change in page["changes"]:
        if change["task"] is None:
            copy.pop(change["id"], None)
        else:
            copy[change["id"]] = change["task"]


def sync(client: Client, since: str | None = None, copy: dict[int, Any] | None = None, **options: Any) -> Any:
    """Read the feed to its end; return the copy and the token."""
    copy = {} if copy is None else copy
    while True:
        query = {"limit": "2", **({"since": since} if since else {})}
        answer = client.get("/tasks/changes", query_string=query, **options)
        assert answer.status_code == 200, answer.text
        apply(copy, answer.json)
        since = answer.json["next"]
        if not answer.json["more"]:
            return copy, since


def shown(client: Client, **options: Any) -> dict[int, Any]:
    """What the client's lists and entity tags hold, in the feed's form."""
    listed = client.get("/tasks?limit=200", **options).json
    versions = {task["id"]: client.get(f"/tasks/{task['id']}", **options).headers["ETag"] for task in listed}
    return {task["id"]: {**task, "version": int(versions[task["id"]].strip('"'))} for task in listed}


def test_each_change_comes_in_order_with_the_task_as_it_is_now(client: Client) -> None:
    _, since = sync(client)
    task = client.post("/tasks", json={"title": "a"}).json["id"]
    client.put(f"/tasks/{task}", json={"status": "completed"})
    client.put(f"/tasks/{task}", json={"status": "completed"})
    client.delete(f"/tasks/{task}")
    page = client.get("/tasks/changes", query_string={"since": since}).json
    assert [(one["kind"], one["id"], one["version"], one["task"]) for one in page["changes"]] == [
        ("created", task, 1, None),
        ("updated", task, 2, None),
        ("deleted", task, 3, None),
    ]
    assert page["more"] is False
    restored = client.post(f"/tasks/{task}/restore").json
    (change,) = client.get("/tasks/changes", query_string={"since": page["next"]}).json["changes"]
    assert (change["kind"], change["version"], change["task"]) == ("restored", 4, {**restored, "version": 4})


def test_a_feed_begins_with_what_is_there_and_goes_on_with_what_changed_meanwhile(client: Client) -> None:
    ids = [client.post("/tasks", json={"title": str(number)}).json["id"] for number in range(5)]
    client.delete(f"/tasks/{ids[1]}")
    first = client.get("/tasks/changes?limit=2").json
    assert [(one["kind"], one["id"]) for one in first["changes"]] == [("existing", ids[0]), ("existing", ids[2])]
    client.put(f"/tasks/{ids[0]}", json={"title": "changed behind the reader's back"})
    client.delete(f"/tasks/{ids[3]}")
    client.post(f"/tasks/{ids[1]}/restore")
    copy: dict[int, Any] = {}
    apply(copy, first)
    sync(client, first["next"], copy)
    assert copy == shown(client)


def test_the_version_of_a_change_is_what_if_match_takes(client: Client) -> None:
    client.post("/tasks", json={"title": "a"})
    (change,) = client.get("/tasks/changes").json["changes"]
    tag = {"If-Match": f'"{change["task"]["version"]}"'}
    assert client.put(f"/tasks/{change['id']}", json={"title": "b"}, headers=tag).status_code == 200
    assert client.put(f"/tasks/{change['id']}", json={"title": "c"}, headers=tag).status_code == 412


def test_a_page_has_at_most_so_many_changes_and_says_whether_there_are_more(client: Client) -> None:
    _, since = sync(client)
    for number in range(3):
        client.post("/tasks", json={"title": str(number)})
    pages = []
    for _ in range(2):
        page = client.get("/tasks/changes", query_string={"since": since, "limit": 2}).json
        pages.append((len(page["changes"]), page["more"]))
        since = page["next"]
    assert pages == [(2, True), (1, False)]
    assert client.get("/tasks/changes", query_string={"since": since}).json["changes"] == []


def test_accounts_see_the_changes_of_their_own_tasks_and_administrators_of_all(
    guarded: Client, database: Database
) -> None:
    ada, bob = log_in(guarded), log_in(guarded, "bob@example.org")
    since = {who: sync(guarded, headers=headers)[1] for who, headers in (("ada", ada), ("bob", bob))}
    task = guarded.post("/tasks", json={"title": "of ada"}, headers=ada).json["id"]
    assert sync(guarded, since["bob"], headers=bob)[0] == {}
    assert set(sync(guarded, since["ada"], headers=ada)[0]) == {task}
    stolen = guarded.get("/tasks/changes", query_string={"since": since["ada"]}, headers=bob)
    assert (stolen.status_code, stolen.json["type"]) == (410, "/problems#feed-gone")
    with database.write() as connection:
        connection.execute(text("UPDATE accounts SET role = 'admin' WHERE email = 'bob@example.org'"))
    bob = log_in(guarded, "bob@example.org")
    copy, _ = sync(guarded, headers=bob)
    assert copy[task]["owner_id"] > 0
    assert "owner_id" not in sync(guarded, headers=ada)[0][task]
    assert guarded.get("/tasks/changes", query_string={"since": since["bob"]}, headers=bob).status_code == 410


def touch(connection: Connection, task_id: int) -> None:
    """Change a task in an open transaction."""
    held = service.get(connection, LOCAL_ACCOUNT, task_id, lock=True)
    service.change(connection, held, TaskChanges(status="completed"), LOCAL_ACCOUNT)


def numbers(database: Database, ids: list[int]) -> list[int | None]:
    """The numbers of the changes of these tasks, of those that are committed."""
    updates = select(task_changes.c.task_id, task_changes.c.id).where(task_changes.c.kind == "updated")
    with database.read() as connection:
        known = {row.task_id: row.id for row in connection.execute(updates)}
    return [known.get(task_id) for task_id in ids]


@POSTGRESQL
def test_a_change_that_is_committed_after_later_ones_is_not_skipped(database: Database) -> None:
    ids = [create(database) for _ in range(3)]
    since = begin(database)
    with database.write() as early:
        touch(early, ids[0])
        with database.write() as late:
            touch(late, ids[1])
        seen = numbers(database, ids)
        page = read(database, since)
        assert ids[0] not in [one.id for one in page.changes]
        with database.write() as late:
            touch(late, ids[2])
    first, second, _ = numbers(database, ids)
    assert (seen[0], seen[1]) == (None, second), "the later change could be read first"
    assert first is not None
    assert second is not None
    assert first < second, "whoever remembered the highest number would have skipped the lower one"
    rest = read(database, page.next)
    assert sorted(one.id for one in (*page.changes, *rest.changes)) == ids


@POSTGRESQL
def test_a_reader_that_remembers_the_highest_number_skips_a_change(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above distinguishes a right order from a wrong one: this is it, for the feed without a horizon."""
    monkeypatch.setattr(store, "horizon", lambda _: 2**62)
    ids = [create(database) for _ in range(2)]
    since = begin(database)
    with database.write() as early:
        touch(early, ids[0])
        with database.write() as late:
            touch(late, ids[1])
        page = read(database, since)
    assert [one.id for one in (*page.changes, *read(database, page.next).changes)] == [ids[1]]


def test_with_many_writers_at_once_a_reader_misses_nothing(database: Database) -> None:
    since = begin(database)
    ended = threading.Event()
    seen: dict[int, list[tuple[str, int]]] = {}
    ids = [create(database) for _ in range(4)]

    def write(number: int) -> set[tuple[int, int]]:
        done = set()
        for step in range(12):
            with database.write() as connection:
                held = service.get(connection, LOCAL_ACCOUNT, ids[(number + step) % 4], lock=True)
                title = TaskChanges(title=f"{number} {step}")
                done.add((held.task.id, service.change(connection, held, title, LOCAL_ACCOUNT).version))
                done.add((service.create(connection, LOCAL_ACCOUNT, NewTask(title="new")).task.id, 1))
        return done

    def follow() -> None:
        token, last = since, False
        while True:
            page = read(database, token, limit=7)
            for one in page.changes:
                seen.setdefault(one.id, []).append((one.kind, one.version))
            token = page.next
            if last and not page.more:
                return
            last = ended.wait(0.01)

    with ThreadPoolExecutor(5) as pool:
        reader = pool.submit(follow)
        written = [pool.submit(write, number) for number in range(4)]
        try:
            changed = set().union(*(each.result() for each in written))
        finally:
            ended.set()
        reader.result()
    delivered = [(task, version) for task, all_of_it in seen.items() for _, version in all_of_it]
    assert changed | {(task, 1) for task in ids} == set(delivered)
    assert len(delivered) == len(set(delivered))


def age(database: Database, by: timedelta) -> None:
    """Let everything have happened so much earlier."""
    with database.write() as connection:
        for column in (deleted_tasks.c.deleted_at, task_changes.c.changed_at, task_changes.c.gone_at):
            for key, value in connection.execute(select(column.table.c.id, column).where(column.is_not(None))).all():
                table: Any = column.table
                connection.execute(update(table).where(table.c.id == key).values({column.name: value - by}))


def test_tokens_last_30_days_and_longer_while_nothing_is_cleared(database: Database) -> None:
    task = create(database)
    since = begin(database)
    with database.write() as connection:
        service.delete(connection, service.get(connection, LOCAL_ACCOUNT, task, lock=True), LOCAL_ACCOUNT)
    age(database, 31 * DAY)
    clear(database)
    with database.read() as connection:
        assert connection.scalar(select(deleted_tasks.c.id)) is None
    age(database, 30 * DAY)
    clear(database)
    assert [one.kind for one in read(database, since).changes] == ["deleted"]
    latest = begin(database)
    age(database, 2 * DAY)
    clear(database)
    with database.read() as connection:
        assert connection.execute(select(task_changes)).all() == []
    with pytest.raises(FeedGone, match="too old: begin anew without `since`"):
        read(database, since)
    assert read(database, latest).changes == []
    other = create(database)
    assert [one.id for one in read(database, latest).changes] == [other]


def test_a_token_of_a_later_state_than_a_restored_database_is_refused(database: Database) -> None:
    create(database, "in the backup")
    kept = begin(database)
    create(database, "after the backup")
    lost = begin(database)
    with database.write() as connection:
        last = connection.scalar(select(task_changes.c.id).order_by(task_changes.c.id.desc()).limit(1))
        connection.execute(delete(task_changes).where(task_changes.c.id == last))
        connection.execute(delete(change_floors))  # a restored database has no trace of it
    with pytest.raises(FeedGone, match="restored"):
        read(database, lost)
    read(database, kept)
    with database.write() as connection:
        (row,) = connection.execute(select(task_changes)).mappings()
        connection.execute(insert(task_changes).values({**row, "id": last, "mark": 2**31 - 1}))
    with pytest.raises(FeedGone, match="restored"):
        read(database, lost)


def test_a_token_of_another_database_is_refused(database: Database) -> None:
    since = begin(database)
    with database.read() as connection:
        name = connection.scalar(select(change_feed.c.generation))
    with database.write() as connection:
        connection.execute(update(change_feed).values(generation="another"))
    try:
        with pytest.raises(FeedGone, match="another database"):
            read(database, since)
    finally:
        with database.write() as connection:
            connection.execute(update(change_feed).values(generation=name))


def test_gone_is_410_and_says_how_to_begin_anew(client: Client, database: Database) -> None:
    client.post("/tasks", json={"title": "a"})
    _, since = sync(client)
    with database.write() as connection:
        connection.execute(insert(change_floors).values(owner_id=LOCAL_ACCOUNT, transaction_id=2**62, change_id=2**62))
    answer = client.get("/tasks/changes", query_string={"since": since})
    assert (answer.status_code, answer.json["type"]) == (410, "/problems#feed-gone")
    assert "begin anew without `since`" in answer.json["detail"]


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.one_of(st.text(max_size=60), st.text("AZaz09_-", max_size=80)))
def test_anything_else_than_a_token_is_refused(database: Database, since: str) -> None:
    with database.read() as connection, pytest.raises(BadFeedToken):
        changes.page(connection, LOCAL_ACCOUNT, ChangesQuery(since=since))


@pytest.mark.parametrize("field", ["transaction", "change", "mark", "listed", "scope"])
@pytest.mark.parametrize("number", [-1, 2**63])
def test_a_token_with_numbers_out_of_range_is_refused(database: Database, field: str, number: int) -> None:
    values: Any = {"generation": "g", "scope": 0, "transaction": 0, "change": 0, "mark": 0, "listed": None}
    forged = changes._encode(changes.Token(**{**values, field: number}))
    with pytest.raises(BadFeedToken):
        read(database, forged)


def test_a_malformed_token_is_400(client: Client) -> None:
    answer = client.get("/tasks/changes?since=x")
    assert (answer.status_code, answer.json["type"]) == (400, "/problems#feed-token-invalid")


def test_an_import_is_in_the_feed_and_one_that_is_undone_leaves_no_deleted_tasks(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(database, "exported")
    file = list(transfer.export(database))
    with database.write() as connection:
        connection.execute(delete(tasks))
        connection.execute(delete(deleted_tasks))
    since = begin(database)

    def fail(*_: Any) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr("task_api.transfer.sleep" if database.dialect == "sqlite" else "task_api.transfer._write", fail)
        with pytest.raises(RuntimeError):
            transfer.import_lines(database, file)
    with database.read() as connection:
        assert connection.execute(select(deleted_tasks)).all() == []
    transfer.import_lines(database, file)
    assert read(database, since).changes[-1].kind == "created"


def test_the_version_before_writes_as_it_did_and_its_changes_are_in_the_feed(database: Database) -> None:
    since = begin(database)
    moment = datetime.now(UTC)
    with database.write() as connection:
        values = {"title": "t", "created_at": moment, "updated_at": moment, "owner_id": 0}
        task = connection.scalar(insert(tasks).values(values).returning(tasks.c.id))
        connection.execute(update(tasks).where(tasks.c.id == task).values(title="u", version=2))
        connection.execute(delete(tasks).where(tasks.c.id == task))
    assert [(one.kind, one.version) for one in read(database, since).changes] == [
        ("created", 1),
        ("updated", 2),
        ("deleted", 3),
    ]
    with database.write() as connection:
        assert connection.scalar(select(deleted_tasks.c.title).where(deleted_tasks.c.id == task)) == "u"


def test_history_says_who_changed_what_and_when(guarded: Client, database: Database) -> None:
    ada, _ = log_in(guarded), log_in(guarded, "root@example.org")
    with database.write() as connection:
        connection.execute(text("UPDATE accounts SET role = 'admin' WHERE email = 'root@example.org'"))
    root = log_in(guarded, "root@example.org")
    before = datetime.now(UTC) - timedelta(seconds=1)
    task = guarded.post("/tasks", json={"title": "a"}, headers=ada).json["id"]
    guarded.put(f"/tasks/{task}", json={"title": "b", "due_at": "2030-01-01T00:00:00Z"}, headers=ada)
    guarded.patch(
        f"/tasks/{task}",
        json={"description": "d", "priority": "high", "status": "completed"},
        headers=root,
        content_type="application/merge-patch+json",
    )
    operations = [{"op": "update", "id": task, "changes": {"title": "c"}}, {"op": "delete", "id": task}]
    guarded.post("/tasks/bulk", json={"operations": operations}, headers=root)
    ids = [guarded.get("/auth/me", headers=headers).json["id"] for headers in (ada, root)]
    guarded.post(f"/tasks/{task}/restore", headers=root)
    history = guarded.get(f"/tasks/{task}/history", headers=ada).json
    assert [(one["version"], one["kind"], one["account_id"], one["fields"]) for one in history] == [
        (6, "restored", ids[1], []),
        (5, "deleted", ids[1], []),
        (4, "updated", ids[1], ["title"]),
        (3, "updated", ids[1], ["description", "status", "priority"]),
        (2, "updated", ids[0], ["title", "due_at"]),
        (1, "created", ids[0], []),
    ]
    moments = [datetime.fromisoformat(one["changed_at"]) for one in reversed(history)]
    assert moments == sorted(moments)
    assert before < moments[0] < datetime.now(UTC) + timedelta(seconds=1)
    assert guarded.get(f"/tasks/{task}/history", headers=log_in(guarded, "eve@example.org")).status_code == 404


def test_a_history_has_the_last_1000_changes(database: Database) -> None:
    task = create(database)
    with database.write() as connection:
        held = service.get(connection, LOCAL_ACCOUNT, task, lock=True)
        for number in range(1005):
            held = service.change(connection, held, TaskChanges(title=f"{number}"), LOCAL_ACCOUNT)
        history = service.history(connection, LOCAL_ACCOUNT, task)
    assert [one.version for one in history] == list(range(1006, 6, -1))


@POSTGRESQL
def test_a_dump_from_a_server_with_higher_transaction_ids_hides_no_change(database: Database) -> None:
    kept = create(database, "in the dump")
    with database.write() as connection:
        connection.execute(update(task_changes).values(transaction_id=2**62))
        connection.execute(insert(change_floors).values(owner_id=LOCAL_ACCOUNT, transaction_id=2**62, change_id=1))
    migrate(database)
    since = begin(database)
    create(database, "after it")
    with database.write() as connection:
        service.change(
            connection, service.get(connection, None, kept, lock=True), TaskChanges(title="x"), LOCAL_ACCOUNT
        )
    assert [one.kind for one in read(database, since).changes] == ["created", "updated"]


@POSTGRESQL
def test_the_changes_of_the_server_itself_keep_their_order_when_it_is_migrated(database: Database) -> None:
    create(database)
    with database.read() as connection:
        before = connection.execute(select(task_changes)).all()
    migrate(database)
    with database.read() as connection:
        assert connection.execute(select(task_changes)).all() == before


@POSTGRESQL
def test_a_change_is_not_pruned_before_what_may_still_come_before_it(database: Database) -> None:
    pruner = Pruner(database, Most(tasks=1))
    held_up = create(database)
    with database.write() as slow:
        held = service.get(slow, LOCAL_ACCOUNT, held_up, lock=True)
        service.change(slow, held, TaskChanges(status="completed"), LOCAL_ACCOUNT)
        with ThreadPoolExecutor(1) as pool:
            for _ in range(10):
                pool.submit(create, database).result()
        assert pruner.prune()["task_changes"] == 0
    assert Pruner(database, Most(tasks=1)).prune()["task_changes"] == 9


@SQLITE
def test_a_copy_of_sqlites_file_put_back_is_a_restore(settings: Settings, tmp_path: Path) -> None:
    database = Database(settings)
    create(database)
    with database.write() as connection:
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql(f"VACUUM INTO '{tmp_path / 'backup.db'}'")
        connection.exec_driver_sql("BEGIN")
    create(database)
    lost = begin(database)
    database.engine.dispose()
    restored = Database(Settings(db_path=str(tmp_path / "backup.db")))
    create(restored)
    with pytest.raises(FeedGone, match="restored"):
        read(restored, lost)
    restored.engine.dispose()


def test_the_feed_needs_the_scope_that_reads_tasks(lend: Lend) -> None:
    client = lend(auth="on", jwt_keys=(KEY,))
    assert client.get("/tasks/changes").status_code == 401


def rows_read(connection: Connection) -> int:
    """How many rows of tables with changes this transaction has read, and entries of their indexes."""
    statistics = text(
        "SELECT sum(pg_stat_get_xact_tuples_returned(oid)) FROM ("
        " SELECT indexrelid AS oid FROM pg_index WHERE indrelid::regclass::text = ANY(:tables)"
        " UNION SELECT unnest(CAST(:tables AS regclass[]))) AS relations"
    )
    return int(connection.execute(statistics, {"tables": ["tasks", "deleted_tasks", "task_changes"]}).scalar_one())


@POSTGRESQL
def test_triggers_that_were_planned_while_the_tables_were_empty_read_no_table_for_each_row(database: Database) -> None:
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE tasks, deleted_tasks, task_changes"))
    now = datetime.now(UTC)
    values = {"title": "t", "created_at": now, "updated_at": now, "owner_id": LOCAL_ACCOUNT}
    read = {}
    with database.write() as connection:
        connection.execute(delete(task_changes))
        for numbers in (range(20), range(20, 420)):
            others, ids = list(numbers)[::2], list(numbers)[1::2]
            steps: dict[str, Any] = {
                "create": (insert(tasks), [{**values, "id": key} for key in numbers]),
                "update": (update(tasks).where(tasks.c.id.in_(ids)).values(title="u", version=2),),
                "delete": (delete(tasks).where(tasks.c.id.in_(numbers)),),
                "restore": (insert(tasks), [{**values, "id": key} for key in ids]),
                "clear": (delete(deleted_tasks).where(deleted_tasks.c.id.in_(others)),),
                "prune": (delete(task_changes).where(task_changes.c.task_id.in_(ids)),),
            }
            for step, statement in steps.items():
                before = rows_read(connection)
                connection.execute(*statement)
                read[step] = rows_read(connection) - before
    assert all(count < 20 * len(ids) for count in read.values()), f"rows read for {len(ids)} rows written: {read}"


@POSTGRESQL
@pytest.mark.parametrize("beyond", [-1, 0, 1])
def test_changes_of_another_server_that_may_be_after_this_ones_come_before_all_of_it(
    client: Client, database: Database, beyond: int
) -> None:
    for title in "ab":
        client.post("/tasks", json={"title": title})
    with database.write() as connection:
        connection.execute(update(task_changes).values(transaction_id=1))
        unused = connection.scalar(text("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"))
        last = select(task_changes.c.id).order_by(task_changes.c.id.desc()).limit(1).scalar_subquery()
        connection.execute(update(task_changes).where(task_changes.c.id == last).values(transaction_id=unused + beyond))
        store.adopt(connection)
        kept = connection.scalars(select(task_changes.c.transaction_id).order_by(task_changes.c.id)).all()
    assert kept == ([1, unused - 1] if beyond < 0 else [0, 0])
