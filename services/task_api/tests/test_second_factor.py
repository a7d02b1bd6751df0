"""The second factor: codes by time, each valid once, recovery codes, and how it is turned off."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from pyotp import TOTP, random_base32
from sqlalchemy import select

from task_api import cli
from task_api.accounts import second_factor
from task_api.accounts.model import WrongCode
from task_api.config import Rate, Settings
from task_api.store.accounts import SECOND_FACTORS
from task_api.transfer import TransferError, export, import_lines
from task_core.config import SecretKey
from task_core.database import Database
from task_core.encryption import Keyring
from task_core.schema import accounts

from .conftest import KEY, PASSWORD, Client, Serve, log_in

ADA = "ada@example.org"
Headers = dict[str, str]


class Clock(datetime):
    """A clock of which tests set the time."""

    moment = datetime(2030, 1, 1, tzinfo=UTC)

    @classmethod
    def now(cls, tz: Any = None) -> Any:  # noqa: ARG003
        return cls.moment


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> type[Clock]:
    monkeypatch.setattr(Clock, "moment", Clock.moment)
    monkeypatch.setattr(second_factor, "datetime", Clock)
    return Clock


def wait(seconds: int = 30) -> None:
    Clock.moment += timedelta(seconds=seconds)


def code_at(secret: str, offset: int = 0) -> str:
    return TOTP(secret).at(Clock.moment + timedelta(seconds=offset))


def enrol(client: Client, headers: Headers) -> str:
    """Enrol an authenticator and return its secret."""
    secret: str = client.post("/auth/totp", json={"password": PASSWORD}, headers=headers).json["secret"]
    return secret


def turn_on(client: Client, headers: Headers) -> tuple[str, list[str]]:
    """Turn the second factor on, and return its secret and the recovery codes a step later."""
    secret = enrol(client, headers)
    confirmed = client.post("/auth/totp/confirm", json={"code": code_at(secret)}, headers=headers)
    assert confirmed.status_code == 200, confirmed.text
    wait()
    return secret, confirmed.json["recovery_codes"]


def login(client: Client, code: str | None = None, **more: str) -> tuple[int, str]:
    """Log in, and return the status and the problem's type, which is empty where there is none."""
    body = {"email": ADA, "password": PASSWORD, **more, **({"code": code} if code is not None else {})}
    answer = client.post("/auth/login", json=body)
    return answer.status_code, answer.json.get("type", "").partition("#")[2]


NEEDED, WRONG, IN = (401, "second-factor-needed"), (403, "code-wrong"), (200, "")


def test_an_authenticator_is_enrolled_and_counts_from_its_confirmation_on(guarded: Client) -> None:
    ada = log_in(guarded)
    enrolled = guarded.post("/auth/totp", json={"password": PASSWORD}, headers=ada).json
    assert "uri" in enrolled, enrolled
    assert enrolled["uri"].startswith("otpauth://totp/Task%20API:ada%40example.org?secret=" + enrolled["secret"])
    assert login(guarded) == IN
    assert guarded.get("/auth/totp", headers=ada).json == {"enabled": False, "recovery_codes": 0}
    code = code_at(enrolled["secret"])
    confirmed = guarded.post("/auth/totp/confirm", json={"code": code}, headers=ada).json
    assert len(set(confirmed["recovery_codes"])) == 10
    assert guarded.get("/auth/totp", headers=ada).json == {"enabled": True, "recovery_codes": 10}
    assert login(guarded) == NEEDED
    wait()
    assert login(guarded, code_at(enrolled["secret"])) == IN


def test_the_answer_that_asks_for_a_code_is_an_authentication_challenge(guarded: Client) -> None:
    turn_on(guarded, log_in(guarded))
    answer = guarded.post("/auth/login", json={"email": ADA, "password": PASSWORD})
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert login(guarded, password="wrong wrong wrong") == (401, "login-failed")


def test_a_code_is_valid_once(guarded: Client) -> None:
    ada = log_in(guarded)
    secret, _ = turn_on(guarded, ada)
    assert login(guarded, code_at(secret, -30)) == WRONG  # confirmed with
    code = code_at(secret)
    assert [login(guarded, code), login(guarded, code)] == [IN, WRONG]
    assert login(guarded, code_at(secret, -30)) == WRONG  # older than one that was used
    proof = {"password": PASSWORD, "code": code}
    assert guarded.post("/auth/totp/delete", json=proof, headers=ada).status_code == 403


@pytest.mark.parametrize(("offset", "expected"), [(-60, WRONG), (-30, IN), (0, IN), (30, IN), (60, WRONG)])
def test_the_authenticators_clock_may_be_a_step_off(guarded: Client, offset: int, expected: tuple[int, str]) -> None:
    secret, _ = turn_on(guarded, log_in(guarded))
    wait(120)
    assert login(guarded, code_at(secret, offset)) == expected


def test_a_recovery_code_is_valid_once_however_it_is_typed(guarded: Client) -> None:
    ada = log_in(guarded)
    _, codes = turn_on(guarded, ada)
    assert login(guarded, codes[0].lower().replace("-", " ")) == IN
    assert login(guarded, codes[0]) == WRONG
    assert login(guarded, codes[1]) == IN
    assert guarded.get("/auth/totp", headers=ada).json["recovery_codes"] == 8


def test_recovery_codes_are_stored_as_digests_alone(guarded: Client, database: Database) -> None:
    _, codes = turn_on(guarded, log_in(guarded))
    with database.read() as connection:
        row = connection.execute(select(accounts).where(accounts.c.email == ADA)).one()
    assert not any(code in str(row) or code.replace("-", "") in str(row) for code in codes)


def test_new_recovery_codes_replace_the_old_ones(guarded: Client) -> None:
    ada = log_in(guarded)
    secret, old = turn_on(guarded, ada)
    proof = {"password": PASSWORD, "code": code_at(secret)}
    new = guarded.post("/auth/totp/recovery-codes", json=proof, headers=ada).json["recovery_codes"]
    assert [login(guarded, old[0]), login(guarded, new[0])] == [WRONG, IN]


def test_it_is_turned_off_with_password_and_code(guarded: Client) -> None:
    ada = log_in(guarded)
    secret, codes = turn_on(guarded, ada)
    for proof, status in (
        ({"password": "x", "code": code_at(secret)}, 403),
        ({"password": PASSWORD, "code": "000000"}, 403),
        ({"password": PASSWORD}, 400),
        ({"password": PASSWORD, "code": code_at(secret)}, 204),
        ({"password": PASSWORD, "code": codes[0]}, 409),
    ):
        assert guarded.post("/auth/totp/delete", json=proof, headers=ada).status_code == status
    assert login(guarded) == IN
    assert guarded.get("/auth/totp", headers=ada).json == {"enabled": False, "recovery_codes": 0}


def test_another_authenticator_is_enrolled_only_when_it_is_off(guarded: Client) -> None:
    ada = log_in(guarded)
    assert guarded.post("/auth/totp/confirm", json={"code": "000000"}, headers=ada).status_code == 409
    assert guarded.post("/auth/totp", json={"password": "x"}, headers=ada).status_code == 403
    enrol(guarded, ada)
    secret, _ = turn_on(guarded, ada)  # the last secret counts
    assert guarded.post("/auth/totp", json={"password": PASSWORD}, headers=ada).status_code == 409
    assert guarded.post("/auth/totp/confirm", json={"code": code_at(secret)}, headers=ada).status_code == 409


def test_who_is_thrown_out_locks_nobody_out_by_a_replica_that_still_knows_the_session(serve: Serve) -> None:
    replica, other = (serve(auth="on", jwt_keys=(KEY,)) for _ in range(2))
    guest = log_in(replica)
    confirm = {"code": code_at(enrol(replica, guest))}
    assert other.get("/auth/me", headers=guest).status_code == 200
    owner = replica.post("/auth/login", json={"email": ADA, "password": PASSWORD}).json["access_token"]
    change = {"password": PASSWORD, "new_password": "quite another long one"}
    changed = replica.post("/auth/password", json=change, headers={"Authorization": f"Bearer {owner}"})
    assert changed.status_code == 204
    refused = other.post("/auth/totp/confirm", json=confirm, headers=guest)
    assert (refused.status_code, refused.json["type"]) == (401, "/problems#token-revoked")
    assert login(replica, password="quite another long one") == IN


def test_guessed_codes_are_throttled_from_all_networks_together_but_not_on_a_known_device(serve: Serve) -> None:
    client = serve(auth="on", jwt_keys=(KEY,), login_limit=Rate(3, 86400), trusted_proxies=1)
    ada = log_in(client)
    secret, codes = turn_on(client, ada)
    known = client.post("/auth/login", json={"email": ADA, "password": PASSWORD, "code": codes[0]}).json
    guess = {"email": ADA, "password": PASSWORD, "code": "abcdef"}
    guesses = [
        client.post("/auth/login", json=guess, headers={"X-Forwarded-For": f"192.0.2.{i}"}).status_code
        for i in range(5)
    ]
    assert guesses == [403, 403, 403, 429, 429]
    assert login(client, code_at(secret))[0] == 429
    assert login(client, code_at(secret), device_token=known["device_token"]) == IN


def test_right_codes_do_not_use_the_limit_up(serve: Serve) -> None:
    client = serve(auth="on", jwt_keys=(KEY,), login_limit=Rate(2, 86400))
    _, codes = turn_on(client, log_in(client))
    assert [login(client, code) for code in codes[:5]] == [IN] * 5
    assert [login(client) for _ in range(5)] == [NEEDED] * 5


def test_a_stolen_session_cannot_guess_codes(serve: Serve) -> None:
    client = serve(auth="on", jwt_keys=(KEY,), login_limit=Rate(2, 86400))
    ada = log_in(client)
    turn_on(client, ada)
    proof = {"password": PASSWORD, "code": "000000"}
    tries = [client.post("/auth/totp/delete", json=proof, headers=ada).status_code for _ in range(3)]
    assert tries == [403, 403, 429]


def test_personal_tokens_and_sessions_stay_valid(guarded: Client) -> None:
    ada = log_in(guarded)
    new = {"name": "backup", "scopes": ["tasks:read"], "days": 1}
    token = guarded.post("/auth/tokens", json=new, headers=ada).json["token"]
    turn_on(guarded, ada)
    assert guarded.get("/tasks", headers={"Authorization": f"Bearer {token}"}).status_code == 200
    assert guarded.get("/tasks", headers=ada).status_code == 200


def test_the_audit_log_has_what_was_done_and_an_operator_turns_it_off(
    guarded: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL" if settings.postgresql else "DB_PATH", settings.database_url or settings.db_path)
    ada = log_in(guarded)
    secret, codes = turn_on(guarded, ada)
    login(guarded, codes[0])
    guarded.post("/auth/totp/recovery-codes", json={"password": PASSWORD, "code": code_at(secret)}, headers=ada)
    runs = [CliRunner().invoke(cli.main, ["accounts", "disable-second-factor", ADA]) for _ in range(2)]
    assert [run.exit_code for run in runs] == [0, 1]
    assert "logs in with its password alone" in runs[0].output
    assert "the second factor is off" in runs[1].output
    assert login(guarded) == IN
    lines = guarded.get("/auth/me/export", headers=ada).text
    for entry in (
        '"actor":"account 1","action":"second factor turned on"',
        '"action":"recovery code used","details":"9 left"',
        '"action":"recovery codes replaced"',
        '"actor":"command line","action":"second factor turned off"',
    ):
        assert entry in lines.replace('"account_id":1,', "")


def test_the_export_of_ones_own_data_has_no_secret_of_the_second_factor(guarded: Client) -> None:
    ada = log_in(guarded)
    secret, _ = turn_on(guarded, ada)
    lines = guarded.get("/auth/me/export", headers=ada).text
    assert secret not in lines
    assert "recovery_codes" not in lines.partition("\n")[0]


def test_export_and_import_keep_the_second_factor(
    guarded: Client, database: Database, other_settings: Settings
) -> None:
    secret, _ = turn_on(guarded, log_in(guarded))
    other = Database(other_settings)
    lines = list(export(database))
    assert secret not in b"".join(lines).decode()
    with pytest.raises(TransferError, match=r"^line 2: it is encrypted with the key 'k1', which ENCRYPTION_KEYS lacks"):
        import_lines(other, lines)
    keys = (SecretKey("k2", KEY.secret), KEY)
    for _ in range(2):  # the second finds all there
        import_lines(other, lines, keys=keys)
    with pytest.raises(
        TransferError, match=r"^line 2: account 1 or its address is here, .* encrypted with the key 'k2', which"
    ):
        import_lines(other, lines, keys=(KEY,))
    statement = select(accounts).where(accounts.c.email == ADA)
    with database.read() as here, other.read() as there:
        old, new = here.execute(statement).one(), there.execute(statement).one()
    other.engine.dispose()
    assert (new.totp_step, new.recovery_codes) == (old.totp_step, old.recovery_codes)
    assert new.encrypted_totp_secret.startswith("k2:")
    assert SECOND_FACTORS.read(Keyring(keys), new) == secret


@pytest.mark.parametrize(
    ("factor", "fault"),
    [
        ({"totp_step": 1}, "a second factor that is on has a secret"),
        ({"totp_secret": random_base32(64)}, "its ciphertext is missing, as in an export of the version before"),
        (
            {
                "totp_secret": random_base32(64),
                "encrypted_totp_secret": Keyring((KEY,)).encrypt("no Base32", "second factor of account", 7),
            },
            "the secret of a second factor is 32 characters of Base32",
        ),
    ],
)
def test_a_second_factor_that_no_code_can_be_computed_of_is_not_imported(
    database: Database, factor: dict[str, Any], fault: str
) -> None:
    ada = {"type": "account", "id": 7, "email": ADA, "password_hash": None, "role": "user"}
    lines = [json.dumps({**ada, "created_at": "2030-01-01T00:00:00Z", **factor}).encode()]
    lines.append(b'{"type": "end", "accounts": 1, "tasks": 0}')
    with pytest.raises(TransferError, match=f"^line 1: {fault}"):
        import_lines(database, lines, keys=(KEY,))


def test_an_export_of_the_version_before_is_imported_and_its_second_factors_are_encrypted(database: Database) -> None:
    secret = random_base32()
    ada = {"type": "account", "id": 7, "email": ADA, "password_hash": None, "role": "user", "totp_secret": secret}
    lines = [json.dumps({**ada, "created_at": "2030-01-01T00:00:00Z", "totp_step": 1}).encode()]
    lines.append(b'{"type": "end", "accounts": 1, "tasks": 0}')
    for _ in range(2):
        import_lines(database, lines, keys=(KEY,))
    with database.read() as connection:
        row = connection.execute(select(accounts).where(accounts.c.email == ADA)).one()
    assert secret not in str(row)
    assert SECOND_FACTORS.read(Keyring((KEY,)), row) == secret


@given(text=st.text("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ- ", min_size=6, max_size=32))
def test_no_other_text_is_a_code(text: str) -> None:
    class Held:
        id, totp_secret, totp_step, recovery_codes = 1, "JBSWY3DPEHPK3PXP" * 2, 0, None

    right = {code_at(Held.totp_secret, offset) for offset in (-30, 0, 30)}
    if text.replace(" ", "").replace("-", "") not in right:
        with pytest.raises(WrongCode):
            second_factor.spend(None, Keyring(()), Held, text)  # type: ignore[arg-type]
