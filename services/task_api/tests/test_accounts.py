import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import IPv6Address
from types import SimpleNamespace
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
from task_api.accounts.model import BadToken, Login, Overloaded, Registration
from task_api.accounts.service import Accounts, Origin, register
from task_api.accounts.throttle import network
from task_api.accounts.tokens import TokenIssuer
from task_api.config import Rate, Settings
from task_core import rates
from task_core.config import SecretKey
from task_core.database import Database
from task_core.schema import accounts as accounts_table
from task_core.schema import refresh_tokens

from .conftest import KEY, PASSWORD, Client, Serve, log_in, log_in_tokens

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


def test_a_login_checks_one_hash_of_today_whether_the_account_exists_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    known = passwords.digest(PASSWORD)
    checked: list[str] = []
    check = PasswordHasher.verify

    def verify(self: PasswordHasher, kept: str, password: str) -> bool:
        checked.append(kept)
        return check(self, kept, password)

    monkeypatch.setattr(PasswordHasher, "verify", verify)
    assert passwords.verify(known, PASSWORD)
    assert not passwords.verify(None, PASSWORD)
    assert [passwords.outdated(one) for one in checked] == [False, False]
    assert checked[0] == known


LIMITED = {"auth": "on", "jwt_keys": (KEY,), "login_limit": Rate(2, 86400)}


def from_address(address: str) -> dict[str, Any]:
    return {"environ_overrides": {"REMOTE_ADDR": address}}


def fail_to_log_in(client: Client, email: str, address: str, **more: object) -> int:
    guess = {"email": email, "password": "x", **more}
    status: int = client.post("/auth/login", json=guess, **from_address(address)).status_code
    return status


@pytest.mark.parametrize("email", ["ada@example.org", "nobody@example.org"])
def test_failed_logins_are_throttled_whether_the_account_exists_or_not(serve: Serve, email: str) -> None:
    client = serve(auth="on", jwt_keys=(KEY,), login_limit=Rate(3, 86400))
    client.post("/auth/register", json=CREDENTIALS)
    attempts = [client.post("/auth/login", json={"email": email, "password": "x"}) for _ in range(4)]
    assert [attempt.status_code for attempt in attempts] == [401, 401, 401, 429]
    assert 0 < int(attempts[3].headers["Retry-After"]) <= 86400
    assert client.post("/auth/login", json={"email": email, "password": PASSWORD}).status_code == 429


def test_a_stranger_who_guesses_does_not_lock_the_owner_out(serve: Serve) -> None:
    client = serve(**LIMITED)
    client.post("/auth/register", json=CREDENTIALS)
    guesses = [fail_to_log_in(client, CREDENTIALS["email"], "192.0.2.1") for _ in range(4)]
    assert guesses == [401, 401, 429, 429]
    assert client.post("/auth/login", json=CREDENTIALS, **from_address("192.0.2.2")).status_code == 200


def test_who_names_other_addresses_is_counted_by_the_one_of_the_connection(serve: Serve) -> None:
    client = serve(**LIMITED)
    client.post("/auth/register", json=CREDENTIALS)
    named = [
        {"X-Forwarded-For": "198.51.100.1"},
        {"X-Real-IP": "198.51.100.2"},
        {"Forwarded": "for=198.51.100.3"},
        {"CF-Connecting-IP": "198.51.100.4"},
        {"True-Client-IP": "198.51.100.5"},
    ]
    wrong = {**CREDENTIALS, "password": "x"}
    statuses = [client.post("/auth/login", json=wrong, headers=headers).status_code for headers in named]
    assert statuses == [401, 401, 429, 429, 429]


def test_guesses_from_many_networks_lock_the_account_but_not_a_device_that_was_logged_in(serve: Serve) -> None:
    client = serve(**LIMITED)
    tokens = sign_up(client)
    guesses = [fail_to_log_in(client, CREDENTIALS["email"], f"192.0.2.{number}") for number in range(25)]
    assert guesses == [401] * 20 + [429] * 5
    elsewhere = from_address("198.51.100.1")
    assert client.post("/auth/login", json=CREDENTIALS, **elsewhere).status_code == 429
    known = {**CREDENTIALS, "device_token": tokens["device_token"]}
    assert client.post("/auth/login", json=known, **elsewhere).status_code == 200


def test_a_device_that_is_known_has_a_limit_of_its_own(serve: Serve) -> None:
    client = serve(**LIMITED)
    device = sign_up(client)["device_token"]
    guesses = [fail_to_log_in(client, CREDENTIALS["email"], f"192.0.2.{n}", device_token=device) for n in range(3)]
    assert guesses == [401, 401, 429]


def test_a_device_token_of_another_account_or_a_forged_one_is_a_strangers(serve: Serve) -> None:
    client = serve(**LIMITED)
    own = sign_up(client)
    other = log_in_tokens(client, "bob@example.org")
    device = str(own["device_token"])
    claims = jwt.decode(device, options={"verify_signature": False})
    header = jwt.get_unverified_header(device)
    forged = jwt.encode(claims, "k" * 32, algorithm="HS256", headers=header)
    unsigned = jwt.encode(claims, "", algorithm="none", headers={**header, "alg": "none"})
    strangers = (other["device_token"], other["access_token"], forged, unsigned, "x")
    for number, token in enumerate(strangers):
        address = f"192.0.2.{number}"
        guesses = [fail_to_log_in(client, CREDENTIALS["email"], address, device_token=token) for _ in range(3)]
        assert guesses == [401, 401, 429]


def test_a_device_token_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    issuer = TokenIssuer((KEY,), 60)
    token = issuer.issue_device(1)
    assert issuer.device(token, 1)
    assert issuer.device(token, 2) is None
    claims = jwt.decode(token, options={"verify_signature": False})
    assert len(bytes.fromhex(claims["jti"])) == 16
    expires_at = claims["exp"]
    assert 180 * 86400 - 60 < expires_at - time.time() <= 180 * 86400
    for now, device in ((expires_at - 1, 1), (expires_at, 0)):
        monkeypatch.setattr("task_api.accounts.tokens.time.time", lambda now=now: now)
        assert bool(issuer.device(token, 1)) == bool(device)


def test_an_address_is_throttled_over_all_accounts(serve: Serve) -> None:
    client = serve(**LIMITED)
    attempts = [client.post("/auth/login", json={"email": f"u{n}@example.org", "password": "x"}) for n in range(11)]
    assert [attempt.status_code for attempt in attempts] == [401] * 10 + [429]


def test_an_address_that_is_throttled_locks_no_account(serve: Serve) -> None:
    client = serve(**LIMITED)
    client.post("/auth/register", json=CREDENTIALS)
    guesses = [f"u{number}@example.org" for number in range(10)] + [CREDENTIALS["email"]] * 25
    attempts = [fail_to_log_in(client, email, "192.0.2.1") for email in guesses]
    assert attempts == [401] * 10 + [429] * 25
    assert client.post("/auth/login", json=CREDENTIALS, **from_address("192.0.2.2")).status_code == 200


def test_a_full_counter_is_not_asked_for_in_the_database_again_within_a_second(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve(**LIMITED)
    for _ in range(3):
        fail_to_log_in(client, "bob@example.org", "192.0.2.1")
    monkeypatch.setattr(rates, "take", None)
    assert fail_to_log_in(client, "bob@example.org", "192.0.2.1") == 429


@given(st.ip_addresses(v=6), st.integers(0, 2**64 - 1))
def test_the_limits_count_an_ipv6_address_by_its_64_bit_prefix(address: IPv6Address, host: int) -> None:
    neighbour = IPv6Address(int(address) >> 64 << 64 | host)
    if address.ipv4_mapped is None and neighbour.ipv4_mapped is None:
        assert network(str(address)) == network(str(neighbour))
        assert network(str(IPv6Address(int(address) ^ 1 << 64))) != network(str(address))


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", "unknown"),
        ("x" * 300, "unknown"),
    ],
)
def test_the_limits_count_addresses_by_network(address: str, counted: str) -> None:
    assert network(address) == counted


def test_registrations_from_one_network_are_limited(serve: Serve) -> None:
    client = serve(auth="on", jwt_keys=(KEY,), registration_limit=Rate(2, 86400))

    def register_from(address: str, number: int) -> Any:
        body = {**CREDENTIALS, "email": f"u{number}@example.org"}
        return client.post("/auth/register", json=body, **from_address(address))

    attempts = [register_from("2001:db8::1" if number % 2 else "2001:db8::2", number) for number in range(3)]
    assert [attempt.status_code for attempt in attempts] == [201, 201, 429]
    assert 0 < int(attempts[2].headers["Retry-After"]) <= 86400
    assert register_from("192.0.2.1", 4).status_code == 201


def test_an_address_that_is_taken_costs_no_hash(guarded: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    guarded.post("/auth/register", json=CREDENTIALS)
    monkeypatch.setattr(passwords, "digest", None)
    assert guarded.post("/auth/register", json=CREDENTIALS).status_code == 409


@pytest.mark.parametrize("path", ["/auth/login", "/auth/register"])
def test_while_passwords_are_hashed_others_are_answered_and_more_passwords_are_refused(
    serve: Serve, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve(auth="on", jwt_keys=(KEY,), threads=3)
    ada = log_in(client)
    hashing, go_on = threading.Semaphore(0), threading.Event()

    def slow(*_: object) -> bool:
        hashing.release()
        return not go_on.wait(30)

    def send(number: int) -> Any:
        mine: Client = client.application.test_client()
        return mine.post(path, json={"email": f"u{number}@example.org", "password": PASSWORD})

    monkeypatch.setattr(passwords, "verify", slow)
    monkeypatch.setattr(passwords, "digest", lambda *_: str(slow()))
    monkeypatch.setattr(passwords, "TURN_SECONDS", 30)
    with ThreadPoolExecutor(2) as pool:
        held = [pool.submit(send, 0)]
        assert hashing.acquire(timeout=30)
        held.append(pool.submit(send, 1))
        lane = client.application.extensions["service_kit"].accounts._lane
        while lane._places._value:
            time.sleep(0.01)
        refused = send(2)
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
        assert refused.json["type"].endswith("overloaded")
        assert client.get("/tasks", headers=ada).status_code == 200
        assert client.get("/livez").status_code == 200
        assert not hashing.acquire(blocking=False)  # one at a time
        go_on.set()
        assert {answer.result().status_code for answer in held} <= {201, 401}


def test_a_caller_whose_turn_does_not_come_is_refused_and_its_place_is_free_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(passwords, "TURN_SECONDS", 0.01)
    lane, go_on = passwords.Lane(2), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(lane.run, go_on.wait)
        while lane._places._value == 2:
            time.sleep(0.001)
        for _ in range(5):
            with pytest.raises(Overloaded):
                lane.run(str, 1)
        go_on.set()
        assert first.result(30) is True
    monkeypatch.setattr(passwords, "TURN_SECONDS", 30)
    assert lane.run(str, 1) == "1"


def test_the_lane_rests_for_the_cpu_time_of_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    now, used, slept = [100.0], [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    def work(seconds: float) -> None:
        used[0] += seconds
        now[0] += 50 * seconds  # as on a busy machine

    clocks = SimpleNamespace(monotonic=lambda: now[0], thread_time=lambda: used[0], sleep=sleep)
    monkeypatch.setattr(passwords, "time", clocks)
    lane = passwords.Lane(1)
    for seconds in (4.0, 2.0, 1.0):
        lane.run(work, seconds)
    now[0] += 10
    lane.run(work, 1.0)
    assert slept == [0.0, 4.0, 2.0, 0.0]


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a priority of their own on Linux alone")
def test_hashes_give_way_to_other_threads_and_are_not_starved_by_other_processes() -> None:
    priority = partial(os.getpriority, os.PRIO_PROCESS, 0)
    before = priority()
    assert passwords.Lane(1).run(priority) == min(before + 5, 19)
    assert priority() == before


def test_a_login_that_is_refused_by_the_lane_does_not_count(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve(**LIMITED)
    client.post("/auth/register", json=CREDENTIALS)

    def refuse(*_: object) -> None:
        raise Overloaded

    with monkeypatch.context() as patch:
        patch.setattr(passwords.Lane, "run", refuse)
        assert {fail_to_log_in(client, CREDENTIALS["email"], "192.0.2.1") for _ in range(30)} == {429}
    assert client.post("/auth/login", json=CREDENTIALS, **from_address("192.0.2.1")).status_code == 200


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
    issued = [service.login(Login(email, PASSWORD), Origin("127.0.0.1"))]
    alive, spent = True, set()
    for action, number in steps:
        which = number % len(issued)
        if action == "logout":
            if alive:
                service.logout(service.authenticate(issued[which].access_token).session_id or "")
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


def test_an_access_token_is_valid_until_the_second_of_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    issuer = TokenIssuer((KEY,), 60)
    token = issuer.issue(1, "s")
    expires_at = jwt.decode(token, options={"verify_signature": False})["exp"]
    monkeypatch.setattr("task_api.accounts.tokens.time.time", lambda: expires_at - 1)
    assert issuer.verify(token) == "s"
    monkeypatch.setattr("task_api.accounts.tokens.time.time", lambda: expires_at)
    with pytest.raises(BadToken, match="expired"):
        issuer.verify(token)


def test_a_replica_whose_clock_is_behind_believes_a_fresh_token() -> None:
    assert TokenIssuer((KEY,), 60).verify(forged(iat=datetime.now(UTC) + timedelta(seconds=5))) == "s"


def test_keys_rotate_without_logging_anybody_out() -> None:
    new = SecretKey("k2", "Zt7uXw3vY9aB5cD1eF8gH2iJ6kL4mN0p")
    token = TokenIssuer((KEY,), 60).issue(1, "s")
    rotated = TokenIssuer((new, KEY), 60)
    assert rotated.verify(token) == "s"
    assert jwt.get_unverified_header(rotated.issue(1, "s"))["kid"] == "k2"
    with pytest.raises(BadToken):
        TokenIssuer((new,), 60).verify(token)
