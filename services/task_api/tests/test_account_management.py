"""What people manage about their accounts, and what administrators and operators do to those of others."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, insert, select, text, update

from task_api import cli
from task_api.accounts import password_policy, personal_tokens
from task_api.accounts.model import Registration
from task_api.accounts.password_policy import check_password
from task_api.accounts.service import register
from task_api.config import Rate, Settings
from task_core.database import Database
from task_core.schema import accounts, metadata, tasks
from task_core.schema import personal_tokens as tokens_table

from .conftest import KEY, PASSWORD, Client, Serve, log_in, log_in_tokens

ADA, ROOT = "ada@example.org", "root@example.org"
NEW = "quite another long one"
Headers = dict[str, str]


def again(client: Client, email: str = ADA, password: str = PASSWORD) -> Any:
    return client.post("/auth/login", json={"email": email, "password": password})


def bearer(token: str) -> Headers:
    return {"Authorization": f"Bearer {token}"}


def me(client: Client, headers: Headers) -> int:
    status: int = client.get("/auth/me", headers=headers).status_code
    return status


@pytest.fixture
def admin(guarded: Client, database: Database) -> Headers:
    """The headers of an administrator, whose id is 1."""
    register(database, Registration(ROOT, PASSWORD), "admin")
    return bearer(again(guarded, ROOT).json["access_token"])


def audited(client: Client, admin: Headers) -> list[tuple[str, str, int]]:
    entries = client.get("/admin/audit", headers=admin).json
    return [(entry["actor"], entry["action"], entry["account_id"]) for entry in entries]


def test_a_changed_password_ends_all_other_sessions(guarded: Client) -> None:
    other, current = log_in(guarded), log_in_tokens(guarded)
    change = {"password": PASSWORD, "new_password": NEW}
    headers = bearer(current["access_token"])
    assert guarded.post("/auth/password", json=change, headers=headers).status_code == 204
    assert (me(guarded, headers), me(guarded, other)) == (200, 401)
    assert guarded.post("/auth/refresh", json={"refresh_token": current["refresh_token"]}).status_code == 200
    assert (again(guarded).status_code, again(guarded, password=NEW).status_code) == (401, 200)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"password": "x", "new_password": NEW}, 403),
        ({"password": PASSWORD, "new_password": "short"}, 400),
        ({"password": PASSWORD, "new_password": "password1234"}, 400),
        ({"new_password": NEW}, 400),
    ],
)
def test_a_password_stays_where_the_change_is_refused(guarded: Client, change: object, status: int) -> None:
    ada = log_in(guarded)
    assert guarded.post("/auth/password", json=change, headers=ada).status_code == status
    assert again(guarded).status_code == 200


def test_a_stolen_token_cannot_guess_the_password(serve: Serve) -> None:
    client = serve(auth="on", jwt_keys=(KEY,), login_limit=Rate(2, 86400))
    ada = log_in(client)
    guess = {"password": "x", "new_password": NEW}
    guesses = [client.post("/auth/password", json=guess, headers=ada).status_code for _ in range(4)]
    assert guesses == [403, 403, 429, 429]
    assert again(client).status_code == 200


def test_sessions_are_listed_and_ended_one_by_one(guarded: Client) -> None:
    log_in(guarded, "bob@example.org")
    first = log_in(guarded)
    login = {"email": ADA, "password": PASSWORD}
    agent = {"User-Agent": "phone" + "x" * 300}
    second = bearer(guarded.post("/auth/login", json=login, headers=agent).json["access_token"])
    listed = guarded.get("/auth/sessions", headers=second).json
    assert [session["current"] for session in listed] == [True, False]
    assert listed[0]["user_agent"] == ("phone" + "x" * 300)[:200]
    assert listed[0]["address"] == "127.0.0.1"
    assert guarded.delete(f"/auth/sessions/{listed[1]['id']}", headers=second).status_code == 204
    assert (me(guarded, first), me(guarded, second)) == (401, 200)
    assert len(guarded.get("/auth/sessions", headers=second).json) == 1
    assert guarded.delete(f"/auth/sessions/{listed[1]['id']}", headers=second).status_code == 404
    assert guarded.delete("/auth/sessions/%00", headers=second).status_code == 404


def test_a_session_of_another_account_cannot_be_ended(guarded: Client) -> None:
    ada, bob = log_in(guarded), log_in(guarded, "bob@example.org")
    session = guarded.get("/auth/sessions", headers=ada).json[0]["id"]
    assert guarded.delete(f"/auth/sessions/{session}", headers=bob).status_code == 404
    assert me(guarded, ada) == 200


def test_logging_out_everywhere_ends_all_sessions_of_the_account_alone(guarded: Client) -> None:
    ada, also, bob = log_in(guarded), log_in(guarded), log_in(guarded, "bob@example.org")
    assert guarded.delete("/auth/sessions", headers=ada).status_code == 204
    assert [me(guarded, headers) for headers in (ada, also, bob)] == [401, 401, 200]


def test_a_session_ends_for_good_however_often_it_is_refreshed(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve(auth="on", jwt_keys=(KEY,), refresh_token_seconds=600, session_seconds=1000)
    now = [datetime.now(UTC)]

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:  # noqa: ARG003
            return now[0]

    monkeypatch.setattr("task_api.accounts.service.datetime", Clock)
    tokens = log_in_tokens(client)
    for seconds, expires_in in ((500, 500), (400, 100)):
        now[0] += timedelta(seconds=seconds)
        tokens = client.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]}).json
        assert tokens["expires_in"] == expires_in
    now[0] += timedelta(seconds=101)
    refused = client.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
    assert (refused.status_code, refused.json["detail"]) == (401, "the token is expired")


def test_an_account_is_deleted_with_all_that_is_its_own(guarded: Client, database: Database) -> None:
    ada, bob = log_in(guarded), log_in(guarded, "bob@example.org")
    for headers in (ada, bob):
        guarded.post("/tasks", json={"title": "t"}, headers={**headers, "Idempotency-Key": "k"})
    guarded.post("/auth/tokens", json={"name": "n", "scopes": ["tasks:read"], "days": 1}, headers=ada)
    assert guarded.post("/auth/me/delete", json={"password": "x"}, headers=ada).status_code == 403
    assert guarded.post("/auth/me/delete", json={"password": PASSWORD}, headers=ada).status_code == 204
    assert (me(guarded, ada), me(guarded, bob), again(guarded).status_code) == (401, 200, 401)
    with database.read() as connection:
        left = {
            table.name: connection.scalar(select(func.count()).select_from(table))
            for table in metadata.sorted_tables
            if table.name in {"accounts", "sessions", "tasks", "idempotency_keys", "personal_tokens"}
        }
    assert left == {"accounts": 2, "sessions": 1, "tasks": 1, "idempotency_keys": 1, "personal_tokens": 0}


def test_no_row_keeps_its_account_from_being_deleted() -> None:
    keep = {
        f"{table.name}.{key.parent.name}"
        for table in metadata.sorted_tables
        for key in table.foreign_keys
        if key.column.table is accounts and key.ondelete != "CASCADE"
    }
    assert keep == {"tasks.owner_id"}  # a deletion by its own statement: the feed names each task


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tasks", {"title": "t"}),
        ("/tasks/bulk", {"operations": [{"op": "create", "task": {"title": "t"}}]}),
        ("/auth/tokens", {"name": "n", "scopes": ["tasks:read"], "days": 1}),
    ],
)
@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "k"}], ids=["", "keyed"])
def test_what_a_deleted_account_adds_by_a_replica_that_still_knows_its_session_is_refused(
    serve: Serve, path: str, body: dict[str, Any], key: Headers
) -> None:
    replica, other = (serve(auth="on", jwt_keys=(KEY,)) for _ in range(2))
    ada = log_in(replica)
    assert me(other, ada) == 200
    assert replica.post("/auth/me/delete", json={"password": PASSWORD}, headers=ada).status_code == 204
    refused = other.post(path, json=body, headers={**ada, **key})
    assert (refused.status_code, refused.json["type"]) == (401, "/problems#token-revoked")


@pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
def test_an_account_is_deleted_with_a_task_that_is_added_meanwhile(guarded: Client, database: Database) -> None:
    ada = log_in(guarded)
    waiting = select(func.count()).select_from(text("pg_stat_activity")).where(text("wait_event_type = 'Lock'"))
    now = datetime.now(UTC)
    with ThreadPoolExecutor(1) as pool:
        with database.write() as connection:
            connection.execute(insert(tasks).values(title="late", owner_id=1, created_at=now, updated_at=now))
            deletion = pool.submit(guarded.post, "/auth/me/delete", json={"password": PASSWORD}, headers=ada)
            with database.read() as watching:
                while not watching.scalar(waiting):
                    assert not deletion.done(), deletion.result().text
        assert deletion.result().status_code == 204
    with database.read() as connection:
        assert not connection.scalar(select(func.count()).select_from(tasks))


def test_the_last_administrator_cannot_go(guarded: Client, admin: Headers, database: Database) -> None:
    proof = {"password": PASSWORD}
    assert guarded.post("/auth/me/delete", json=proof, headers=admin).status_code == 409
    register(database, Registration("other@example.org", PASSWORD), "admin")
    assert guarded.post("/auth/me/delete", json=proof, headers=admin).status_code == 204


def test_people_export_all_that_is_their_own_and_no_secret(guarded: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("task_api.accounts.personal_data.PAGE", 2)
    ada, bob = log_in(guarded), log_in(guarded, "bob@example.org")
    guarded.post("/tasks", json={"title": "bob's"}, headers=bob)
    for number in range(5):
        guarded.post("/tasks", json={"title": f"ada's {number}"}, headers=ada)
    deleted = guarded.post("/tasks", json={"title": "ada's deleted"}, headers=ada).json["id"]
    guarded.delete(f"/tasks/{deleted}", headers=ada)
    token = {"name": "n", "scopes": ["tasks:read"], "days": 1}
    for _ in range(3):
        guarded.post("/auth/tokens", json=token, headers=ada)
    exported = guarded.get("/auth/me/export", headers=ada)
    lines = [json.loads(line) for line in exported.data.splitlines()]
    counts = {"account": 1, "session": 1, "token": 3, "task": 5, "deleted_task": 1, "change": 7, "audit": 3}
    assert lines[-1] == {"type": "end", **counts}
    assert [line["title"] for line in lines if line["type"] == "deleted_task"] == ["ada's deleted"]
    assert [line["title"] for line in lines if line["type"] == "task"] == [f"ada's {number}" for number in range(5)]
    assert lines[0]["email"] == ADA
    assert "bob" not in exported.text
    assert not {"password_hash", "digest", "totp_secret"} & {name for line in lines for name in line}


def personal(client: Client, headers: Headers, *scopes: str, days: int = 1) -> Headers:
    body = {"name": "backup", "scopes": scopes, "days": days}
    created = client.post("/auth/tokens", json=body, headers=headers)
    assert created.status_code == 201
    return bearer(created.json["token"])


def test_a_personal_token_may_do_what_its_scopes_say_and_no_more(guarded: Client) -> None:
    ada = log_in(guarded)
    reader, writer = personal(guarded, ada, "tasks:read"), personal(guarded, ada, "tasks:write")
    assert guarded.post("/tasks", json={"title": "t"}, headers=writer).status_code == 201
    assert guarded.get("/tasks/1", headers=reader).json["title"] == "t"
    assert me(guarded, reader) == 200
    for headers, method, path in (
        (reader, "POST", "/tasks"),
        (reader, "DELETE", "/tasks/1"),
        (reader, "POST", "/tasks/bulk"),
        (writer, "GET", "/tasks"),
        (writer, "GET", "/auth/me"),
        *((token, *route) for token in (reader, writer) for route in SESSIONS_ONLY),
    ):
        refused = guarded.open(path, method=method, json={}, headers=headers)
        assert refused.status_code == 403, (method, path)
        assert 'error="insufficient_scope"' in refused.headers["WWW-Authenticate"]


SESSIONS_ONLY = (
    ("POST", "/auth/tokens"),
    ("GET", "/auth/tokens"),
    ("DELETE", "/auth/tokens/1"),
    ("POST", "/auth/password"),
    ("GET", "/auth/sessions"),
    ("DELETE", "/auth/sessions"),
    ("POST", "/auth/me/delete"),
    ("GET", "/auth/me/export"),
    ("POST", "/auth/logout"),
)


def test_a_personal_token_is_stored_as_a_digest_and_listed_without_its_secret(
    guarded: Client, database: Database
) -> None:
    ada = log_in(guarded)
    token = personal(guarded, ada, "tasks:write", "tasks:read")["Authorization"].removeprefix("Bearer ")
    assert token.startswith(personal_tokens.PREFIX)
    listed = guarded.get("/auth/tokens", headers=ada)
    assert [(each["name"], each["scopes"]) for each in listed.json] == [("backup", ["tasks:read", "tasks:write"])]
    assert token not in listed.text
    with database.read() as connection:
        assert token not in str(connection.execute(select(tokens_table)).all())


def test_a_personal_token_ends_when_it_expires_or_is_deleted_and_belongs_to_one_account(
    guarded: Client, database: Database
) -> None:
    ada, bob = log_in(guarded), log_in(guarded, "bob@example.org")
    expired, deleted, kept = (personal(guarded, ada, "tasks:read") for _ in range(3))
    with database.write() as connection:
        past = datetime.now(UTC) - timedelta(seconds=1)
        connection.execute(update(tokens_table).where(tokens_table.c.id == 1).values(expires_at=past))
    assert guarded.delete("/auth/tokens/2", headers=bob).status_code == 404
    assert me(guarded, deleted) == 200
    assert guarded.delete("/auth/tokens/2", headers=ada).status_code == 204
    assert [me(guarded, token) for token in (expired, deleted, kept)] == [401, 401, 200]
    assert guarded.delete("/auth/tokens/2", headers=ada).status_code == 404


@pytest.mark.parametrize("token_id", [77, 2**63 - 1, 2**63, 10**30])
def test_a_personal_token_that_does_not_exist_cannot_be_deleted(guarded: Client, token_id: int) -> None:
    assert guarded.delete(f"/auth/tokens/{token_id}", headers=log_in(guarded)).status_code == 404


@pytest.mark.parametrize("query", ["accounts?after=9223372036854775808", "audit?before=9223372036854775808"])
def test_a_page_behind_every_id_is_refused_or_empty(guarded: Client, admin: Headers, query: str) -> None:
    assert guarded.get(f"/admin/{query}", headers=admin).status_code == 400


def test_an_account_has_so_many_personal_tokens_at_most(guarded: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(personal_tokens, "MOST", 1)
    ada = log_in(guarded)
    personal(guarded, ada, "tasks:read")
    body = {"name": "n", "scopes": ["tasks:read"], "days": 1}
    assert guarded.post("/auth/tokens", json=body, headers=ada).status_code == 409


@pytest.mark.parametrize("change", [{"days": 0}, {"days": 366}, {"scopes": []}, {"scopes": ["admin"]}, {"name": ""}])
def test_a_personal_token_has_a_name_a_scope_and_an_end(guarded: Client, change: dict[str, object]) -> None:
    body = {"name": "n", "scopes": ["tasks:read"], "days": 1, **change}
    assert guarded.post("/auth/tokens", json=body, headers=log_in(guarded)).status_code == 400


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/admin/accounts"), ("PATCH", "/admin/accounts/1"), ("GET", "/admin/audit")]
)
def test_only_administrators_administer(guarded: Client, admin: Headers, method: str, path: str) -> None:
    ada = log_in(guarded)
    body: dict[str, Any] = {"json": {}} if method == "PATCH" else {}
    assert guarded.open(path, method=method, headers=ada, **body).status_code == 403
    assert guarded.open(path, method=method, **body).status_code == 401
    token = personal(guarded, admin, "tasks:read", "tasks:write")
    assert guarded.open(path, method=method, headers=token, **body).status_code == 403


def test_administrators_list_accounts_by_pages(guarded: Client, admin: Headers) -> None:
    for name in "abc":
        log_in(guarded, f"{name}@example.org")
    first = guarded.get("/admin/accounts?limit=3", headers=admin).json
    assert [account["email"] for account in first] == [ROOT, "a@example.org", "b@example.org"]
    rest = guarded.get(f"/admin/accounts?after={first[-1]['id']}", headers=admin).json
    assert [(account["email"], account["role"], account["disabled"]) for account in rest] == [
        ("c@example.org", "user", False)
    ]


def test_a_disabled_account_is_out_until_it_is_enabled(guarded: Client, admin: Headers) -> None:
    ada = log_in(guarded)
    token = personal(guarded, ada, "tasks:read")
    assert guarded.patch("/admin/accounts/2", json={"disabled": True}, headers=admin).json["disabled"] is True
    wrong = again(guarded, password="x")
    right = again(guarded)
    assert (me(guarded, ada), me(guarded, token), right.status_code) == (401, 401, 401)
    assert {**right.json, "request_id": ""} == {**wrong.json, "request_id": ""}
    guarded.patch("/admin/accounts/2", json={"disabled": False}, headers=admin)
    assert (again(guarded).status_code, me(guarded, ada)) == (200, 401)
    assert audited(guarded, admin)[:2] == [("account 1", "enabled", 2), ("account 1", "disabled", 2)]


def test_administrators_promote_and_demote_but_not_themselves(guarded: Client, admin: Headers) -> None:
    ada = log_in(guarded)
    assert guarded.patch("/admin/accounts/2", json={"role": "admin"}, headers=admin).json["role"] == "admin"
    assert guarded.get("/admin/accounts", headers=ada).status_code == 200
    assert guarded.patch("/admin/accounts/2", json={"role": "user"}, headers=admin).json["role"] == "user"
    assert guarded.get("/admin/accounts", headers=ada).status_code == 403
    assert guarded.patch("/admin/accounts/1", json={"role": "user"}, headers=admin).status_code == 409
    assert audited(guarded, admin) == [("account 1", "role changed", 2)] * 2


@pytest.mark.parametrize("account_id", [0, 77, 2**63 - 1, 2**63, 10**30])
def test_an_account_that_does_not_exist_cannot_be_changed(guarded: Client, admin: Headers, account_id: int) -> None:
    changed = guarded.patch(f"/admin/accounts/{account_id}", json={"role": "admin"}, headers=admin)
    assert changed.status_code == 404


def test_the_audit_log_is_read_by_pages_and_by_account(guarded: Client, admin: Headers) -> None:
    log_in(guarded, "a@example.org")
    log_in(guarded, "b@example.org")
    for account_id in (2, 3):
        for disabled in (True, False):
            guarded.patch(f"/admin/accounts/{account_id}", json={"disabled": disabled}, headers=admin)
    newest = guarded.get("/admin/audit?limit=1", headers=admin).json
    before = guarded.get(f"/admin/audit?before={newest[0]['id']}&account_id=2", headers=admin).json
    assert [(entry["action"], entry["account_id"]) for entry in newest + before] == [
        ("enabled", 3),
        ("enabled", 2),
        ("disabled", 2),
    ]


@pytest.fixture
def operator(settings: Settings) -> Any:
    """Run `task-api` over the test's database, and return what it printed."""
    place = {"DATABASE_URL": settings.database_url} if settings.postgresql else {"DB_PATH": settings.db_path}

    def run(*arguments: str, exit_code: int = 0, **environment: str) -> str:
        result = CliRunner().invoke(cli.main, arguments, env={**place, **environment})
        assert result.exit_code == exit_code, result.output
        return result.output

    return run


def test_operators_list_and_change_accounts(guarded: Client, operator: Any) -> None:
    ada = log_in(guarded)
    assert ADA in operator("accounts", "list")
    assert "ada@example.org: user, disabled" in operator("accounts", "disable", "Ada@Example.org")
    assert again(guarded).status_code == 401
    operator("accounts", "enable", ADA)
    assert "ada@example.org: admin" in operator("accounts", "promote", ADA)
    assert "last administrator" in operator("accounts", "demote", ADA, exit_code=1)
    operator("accounts", "set-password", ADA, NEW_PASSWORD=NEW)
    assert (me(guarded, ada), again(guarded).status_code, again(guarded, password=NEW).status_code) == (401, 401, 200)
    entries = [json.loads(line) for line in operator("audit").splitlines()]
    assert [(entry["actor"], entry["action"]) for entry in entries] == [
        ("command line", "password replaced"),
        ("command line", "role changed"),
        ("command line", "enabled"),
        ("command line", "disabled"),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("disable", "nobody@example.org"), "there is no account of nobody@example.org"),
        (("disable", "local"), "there is no account of local"),
        (("set-password", ADA), "the password is common"),
    ],
)
def test_an_operators_mistake_is_one_line(
    guarded: Client, operator: Any, arguments: tuple[str, ...], message: str
) -> None:
    log_in(guarded)
    output = operator("accounts", *arguments, exit_code=1, NEW_PASSWORD="password1234")
    assert output.startswith(f"task-api: {message}")
    assert output.count("\n") == 1
    assert again(guarded).status_code == 200


@pytest.mark.parametrize(
    "password",
    [
        "passwordpassword",
        "Password1234!",
        "1234password!!!",
        "qwerty123456",
        "123456789012",
        "abcdefghijklmnop",
        "zyxwvutsrqpo",
        "ada.lovelace1815",
        "Analytical-2026",
        "ada.lovelace@analytical.example",
        "task-api-2026",
        "leavemealone",
    ],
)
def test_passwords_that_are_guessed_easily_are_refused(guarded: Client, password: str) -> None:
    body = {"email": "ada.lovelace@analytical.example", "password": password}
    refused = guarded.post("/auth/register", json=body)
    assert refused.status_code == 400
    assert "the password is" in refused.json["detail"]
    assert password not in refused.json["detail"]


@pytest.mark.parametrize("password", [PASSWORD, NEW, "correct horse battery", "6sT-9pQ_x2Lm4", "837261958372"])
def test_other_passwords_are_accepted(password: str) -> None:
    check_password(password, "ada.lovelace@analytical.example")


@given(st.text(min_size=12, max_size=128))
def test_any_password_is_checked_without_an_error_of_another_kind(password: str) -> None:
    with suppress(ValueError):
        check_password(password, ADA)


def test_the_list_of_common_passwords_is_there() -> None:
    assert len(password_policy.common()) == 30_000


def test_administrators_see_whose_a_task_is_and_owners_do_not(guarded: Client, admin: Headers) -> None:
    ada = log_in(guarded)
    assert "owner_id" not in guarded.post("/tasks", json={"title": "ada's"}, headers=ada).json
    shown = guarded.get("/tasks/1", headers=admin).json
    assert shown["owner_id"] == guarded.get("/tasks", headers=admin).json[0]["owner_id"] == 2
    changed = guarded.put("/tasks/1", json={**shown, "owner_id": 1, "title": "new"}, headers=admin).json
    assert (changed["owner_id"], changed["title"]) == (2, "new")
    assert "owner_id" not in guarded.get("/tasks", headers=ada).json[0]


def test_tasks_of_others_are_untouched_by_all_this(guarded: Client, admin: Headers, database: Database) -> None:
    bob = log_in(guarded, "bob@example.org")
    guarded.post("/tasks", json={"title": "bob's"}, headers=bob)
    guarded.patch("/admin/accounts/2", json={"disabled": True}, headers=admin)
    with database.read() as connection:
        owners = connection.execute(select(tasks.c.owner_id, accounts.c.email).join(accounts)).all()
    assert [tuple(row) for row in owners] == [(2, "bob@example.org")]
