import time
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import msgspec
import pytest
from argon2 import PasswordHasher
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import select, update

from task_api.accounts import passwords
from task_api.accounts.model import BadToken, Login, Registration
from task_api.accounts.service import Accounts, register
from task_api.accounts.tokens import TokenIssuer
from task_api.config import Rate, Settings, SigningKey
from task_api.store import rates
from task_api.store.database import Database
from task_api.store.schema import accounts as accounts_table
from task_api.store.schema import rate_windows, refresh_tokens

from .conftest import KEY, PASSWORD, Client, Serve, log_in

CREDENTIALS = {"email": "ada@example.org", "password": PASSWORD}


def sign_up(client: Client) -> dict[str, object]:
    client.post("/auth/register", json=CREDENTIALS)
    tokens: dict[str, object] = client.post("/auth/login", json=CREDENTIALS).json
    return tokens


def bearer(token: object) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_an_account_registers_logs_in_and_is_told_who_it_is(guarded: Client) -> None:
    registered = guarded.post("/auth/register", json={**CREDENTIALS, "email": "Ada@Example.org"})
    assert (registered.status_code, registered.json["email"], registered.json["role"]) == (
        201,
        "ada@example.org",
        "user",
    )
    tokens = guarded.post("/auth/login", json=CREDENTIALS).json
    assert (tokens["token_type"], tokens["expires_in"]) == ("Bearer", 900)
    assert guarded.get("/auth/me", headers=bearer(tokens["access_token"])).json == registered.json


def test_an_address_registers_once(guarded: Client) -> None:
    guarded.post("/auth/register", json=CREDENTIALS)
    assert guarded.post("/auth/register", json=CREDENTIALS).status_code == 409


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"email": "ada"},
        {"email": "a@b", "password": PASSWORD},
        {"email": "ada@example.org\n", "password": PASSWORD},
        {"email": "ada@example.org", "password": "short"},
        {"email": "ada@example.org", "password": "x" * 12},
        {"email": "ada@example.org", "password": "x" * 129},
        {**CREDENTIALS, "role": "admin"},
    ],
)
def test_a_registration_that_breaks_a_rule_is_400(guarded: Client, body: object) -> None:
    assert guarded.post("/auth/register", json=body).status_code == 400


def test_registration_can_be_closed(serve: Serve) -> None:
    client = serve(auth="on", jwt_keys=(KEY,), registration="closed")
    assert client.post("/auth/register", json=CREDENTIALS).status_code == 403


@pytest.mark.usefixtures("real_passwords")
def test_passwords_are_kept_as_argon2id(guarded: Client, database: Database) -> None:
    guarded.post("/auth/register", json=CREDENTIALS)
    with database.read() as connection:
        kept = connection.scalar(select(accounts_table.c.password_hash).where(accounts_table.c.id != 0))
    assert kept is not None
    assert kept.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert PASSWORD not in kept


@pytest.mark.usefixtures("real_passwords")
def test_a_hash_of_weaker_parameters_is_renewed_at_login(guarded: Client, database: Database) -> None:
    sign_up(guarded)
    weak = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
    with database.write() as connection:
        connection.execute(update(accounts_table).where(accounts_table.c.id == 1).values(password_hash=weak))
    assert guarded.post("/auth/login", json=CREDENTIALS).status_code == 200
    with database.read() as connection:
        renewed = connection.scalar(select(accounts_table.c.password_hash).where(accounts_table.c.id == 1))
    assert renewed is not None
    assert renewed != weak
    assert not passwords.outdated(renewed)


def test_without_accounts_there_are_no_routes_for_them(client: Client) -> None:
    assert client.post("/auth/login", json=CREDENTIALS).status_code == 404


def test_a_wrong_password_and_an_unknown_account_get_the_same_answer(guarded: Client) -> None:
    guarded.post("/auth/register", json=CREDENTIALS)
    wrong = guarded.post("/auth/login", json={**CREDENTIALS, "password": "x"})
    unknown = guarded.post("/auth/login", json={"email": "bob@example.org", "password": "x"})
    local = guarded.post("/auth/login", json={"email": "local", "password": "x"})
    for answer in (wrong, unknown, local):
        assert answer.status_code == 401
        assert {**answer.json, "request_id": ""} == {**wrong.json, "request_id": ""}


def test_an_unknown_account_costs_a_hash_too(monkeypatch: pytest.MonkeyPatch, guarded: Client) -> None:
    verified: list[tuple[str | None, str]] = []

    def verify(kept: str | None, password: str) -> bool:
        verified.append((kept, password))
        return False

    monkeypatch.setattr(passwords, "verify", verify)
    guarded.post("/auth/login", json={"email": "bob@example.org", "password": "x"})
    assert verified == [(None, "x")]
    monkeypatch.undo()
    assert passwords.verify(None, "no account has this password") is False


@pytest.mark.parametrize("email", ["ada@example.org", "nobody@example.org"])
def test_failed_logins_are_throttled_whether_the_account_exists_or_not(serve: Serve, email: str) -> None:
    client = serve(auth="on", jwt_keys=(KEY,), login_limit=Rate(3, 86400))
    client.post("/auth/register", json=CREDENTIALS)
    attempts = [client.post("/auth/login", json={"email": email, "password": "x"}) for _ in range(4)]
    assert [attempt.status_code for attempt in attempts] == [401, 401, 401, 429]
    assert 0 < int(attempts[3].headers["Retry-After"]) <= 86400
    assert client.post("/auth/login", json={"email": email, "password": PASSWORD}).status_code == 429


def test_an_address_is_throttled_over_all_accounts(serve: Serve) -> None:
    client = serve(auth="on", jwt_keys=(KEY,), login_limit=Rate(2, 86400))
    attempts = [client.post("/auth/login", json={"email": f"u{n}@example.org", "password": "x"}) for n in range(11)]
    assert [attempt.status_code for attempt in attempts] == [401] * 10 + [429]


def test_an_address_that_is_throttled_locks_no_account(serve: Serve) -> None:
    client = serve(auth="on", jwt_keys=(KEY,), login_limit=Rate(2, 86400))
    client.post("/auth/register", json=CREDENTIALS)
    guesses = [f"u{number}@example.org" for number in range(10)] + [CREDENTIALS["email"]] * 5
    attempts = [client.post("/auth/login", json={"email": email, "password": "x"}) for email in guesses]
    assert [attempt.status_code for attempt in attempts] == [401] * 10 + [429] * 5
    elsewhere = {"REMOTE_ADDR": "192.0.2.1"}
    assert client.post("/auth/login", json=CREDENTIALS, environ_overrides=elsewhere).status_code == 200


def test_failures_of_an_account_that_is_locked_count_against_the_address(serve: Serve) -> None:
    client = serve(auth="on", jwt_keys=(KEY,), login_limit=Rate(2, 86400))
    guesses = [CREDENTIALS["email"]] * 10 + ["bob@example.org"]
    attempts = [client.post("/auth/login", json={"email": email, "password": "x"}) for email in guesses]
    assert [attempt.status_code for attempt in attempts] == [401] * 2 + [429] * 9


def test_a_login_clears_windows_of_long_ago(serve: Serve, database: Database) -> None:
    with database.write() as connection:
        rates.take(connection, "gone", int(time.time()) - 2 * 86400, 1, 1)
    client = serve(auth="on", jwt_keys=(KEY,), login_limit=Rate(2, 86400))
    client.post("/auth/login", json=CREDENTIALS)
    with database.read() as connection:
        assert "gone" not in connection.scalars(select(rate_windows.c.client)).all()


def test_logins_that_succeed_do_not_count(serve: Serve) -> None:
    client = serve(auth="on", jwt_keys=(KEY,), login_limit=Rate(2, 86400))
    client.post("/auth/register", json=CREDENTIALS)
    assert {client.post("/auth/login", json=CREDENTIALS).status_code for _ in range(12)} == {200}


def test_a_refresh_token_is_exchanged_once(guarded: Client) -> None:
    first = sign_up(guarded)
    second = guarded.post("/auth/refresh", json={"refresh_token": first["refresh_token"]})
    assert second.status_code == 200
    assert second.json["refresh_token"] != first["refresh_token"]
    assert guarded.get("/auth/me", headers=bearer(second.json["access_token"])).status_code == 200


def test_using_a_spent_refresh_token_ends_the_family(guarded: Client) -> None:
    first = sign_up(guarded)
    second = guarded.post("/auth/refresh", json={"refresh_token": first["refresh_token"]}).json
    reused = guarded.post("/auth/refresh", json={"refresh_token": first["refresh_token"]})
    assert reused.status_code == 401
    assert "reused" in reused.json["detail"]
    assert guarded.post("/auth/refresh", json={"refresh_token": second["refresh_token"]}).status_code == 401
    for tokens in (first, second):
        assert guarded.get("/auth/me", headers=bearer(tokens["access_token"])).status_code == 401


def test_another_session_outlives_a_family_that_was_ended(guarded: Client) -> None:
    first, other = sign_up(guarded), sign_up(guarded)
    for _ in range(2):
        guarded.post("/auth/refresh", json={"refresh_token": first["refresh_token"]})
    assert guarded.get("/auth/me", headers=bearer(other["access_token"])).status_code == 200


def test_a_refresh_token_expires(guarded: Client, database: Database) -> None:
    tokens = sign_up(guarded)
    with database.write() as connection:
        connection.execute(update(refresh_tokens).values(expires_at=datetime.now(UTC) - timedelta(seconds=1)))
    assert guarded.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]}).status_code == 401


def test_logging_out_takes_all_tokens_of_the_session(guarded: Client) -> None:
    tokens = sign_up(guarded)
    assert guarded.post("/auth/logout", headers=bearer(tokens["access_token"])).status_code == 204
    assert guarded.get("/auth/me", headers=bearer(tokens["access_token"])).status_code == 401
    assert guarded.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]}).status_code == 401


@hypothesis_settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(["refresh", "logout"]), st.integers(0, 5)), max_size=7))
def test_a_family_of_tokens_lives_until_one_is_reused_or_it_is_logged_out(
    database: Database, settings: Settings, steps: list[tuple[str, int]]
) -> None:
    service = Accounts(msgspec.structs.replace(settings, auth="on", jwt_keys=(KEY,), login_limit=None), database)
    email = f"u{time.monotonic_ns()}@example.org"
    register(database, Registration(email, PASSWORD))
    issued = [service.login(Login(email, PASSWORD), "127.0.0.1")]
    alive, spent = True, set()
    for action, number in steps:
        which = number % len(issued)
        if action == "logout":
            if alive:
                service.logout(service.authenticate(issued[which].access_token)[1])
            alive = False
        elif alive and which not in spent:
            issued.append(service.refresh(issued[which].refresh_token))
            spent.add(which)
        else:
            with pytest.raises(BadToken):
                service.refresh(issued[which].refresh_token)
            alive = False
        for tokens in issued:
            if alive:
                assert service.authenticate(tokens.access_token)[0].email == email
            else:
                with pytest.raises(BadToken):
                    service.authenticate(tokens.access_token)


def test_an_owner_sees_their_tasks_alone_and_anothers_is_not_found(guarded: Client) -> None:
    ada, bob = log_in(guarded, "ada@example.org"), log_in(guarded, "bob@example.org")
    guarded.post("/tasks", json={"title": "ada's secret"}, headers=ada)
    guarded.post("/tasks", json={"title": "bob's"}, headers=bob)
    assert [task["title"] for task in guarded.get("/tasks", headers=bob).json] == ["bob's"]
    assert guarded.get("/tasks?q=secret", headers=bob).json == []
    merge = {"Content-Type": "application/merge-patch+json", **bob}
    for answer in (
        guarded.get("/tasks/1", headers=bob),
        guarded.put("/tasks/1", json={"title": "x"}, headers=bob),
        guarded.patch("/tasks/1", data=b'{"title":"x"}', headers=merge),
        guarded.delete("/tasks/1", headers=bob),
        guarded.post("/tasks/bulk", json={"operations": [{"op": "delete", "id": 1}]}, headers=bob),
    ):
        assert answer.status_code == 404
    assert guarded.get("/tasks/1", headers=ada).json["title"] == "ada's secret"


def test_an_administrator_sees_the_tasks_of_all(guarded: Client, database: Database) -> None:
    guarded.post("/tasks", json={"title": "ada's"}, headers=log_in(guarded))
    register(database, Registration("root@example.org", PASSWORD), "admin")
    tokens = guarded.post("/auth/login", json={"email": "root@example.org", "password": PASSWORD}).json
    admin = bearer(tokens["access_token"])
    assert [task["title"] for task in guarded.get("/tasks", headers=admin).json] == ["ada's"]
    assert guarded.put("/tasks/1", json={"status": "completed"}, headers=admin).status_code == 200


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer x", "Basic YTpi", "Bearer a.b.c", "Bearer " + "é" * 3],
)
def test_without_a_good_token_there_is_a_challenge(guarded: Client, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    refused = guarded.get("/tasks", headers=headers)
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"].startswith('Bearer realm="task-api"')


@pytest.mark.parametrize(("method", "path"), [("POST", "/tasks"), ("GET", "/tasks?x=1"), ("PUT", "/tasks/1")])
def test_nothing_of_a_strangers_request_is_looked_at(guarded: Client, method: str, path: str) -> None:
    assert guarded.open(path, method=method, data=b"\xff", content_type="text/plain").status_code == 401


def forged(**changes: Any) -> str:
    now = datetime.now(UTC)
    claims = {"iss": "task-api", "sub": "1", "sid": "s", "iat": now, "exp": now + timedelta(minutes=1)}
    header = {"kid": KEY.kid, "typ": "at+jwt"}
    secret, algorithm = KEY.secret, "HS256"
    claims |= {k: v for k, v in changes.items() if k in claims}
    header |= {k: v for k, v in changes.items() if k in header}
    claims = {k: v for k, v in claims.items() if v is not None}
    return jwt.encode(
        claims, changes.get("secret", secret), algorithm=str(changes.get("algorithm", algorithm)), headers=header
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"secret": "x" * 32}, "invalid"),
        ({"kid": "other"}, "invalid"),
        ({"typ": "JWT"}, "invalid"),
        ({"iss": "another"}, "invalid"),
        ({"exp": None}, "invalid"),
        ({"sid": None}, "invalid"),
        ({"sid": 5}, "invalid"),
        ({"exp": datetime(2020, 1, 1, tzinfo=UTC)}, "expired"),
        ({"algorithm": "none", "secret": None}, "invalid"),
        ({"algorithm": "HS512", "secret": "y" * 64}, "invalid"),
    ],
)
def test_a_forged_token_is_worth_nothing(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(BadToken) as refused:
        TokenIssuer((KEY,), 60).verify(forged(**changes))
    assert refused.value.reason == reason
    assert TokenIssuer((KEY,), 60).verify(forged()) == "s"


def test_a_replica_whose_clock_is_behind_believes_a_fresh_token() -> None:
    assert TokenIssuer((KEY,), 60).verify(forged(iat=datetime.now(UTC) + timedelta(seconds=5))) == "s"


def test_keys_rotate_without_logging_anybody_out() -> None:
    new = SigningKey("k2", "Zt7uXw3vY9aB5cD1eF8gH2iJ6kL4mN0p")
    token = TokenIssuer((KEY,), 60).issue(1, "s")
    rotated = TokenIssuer((new, KEY), 60)
    assert rotated.verify(token) == "s"
    assert jwt.get_unverified_header(rotated.issue(1, "s"))["kid"] == "k2"
    with pytest.raises(BadToken):
        TokenIssuer((new,), 60).verify(token)
