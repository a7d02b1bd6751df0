import re
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Any, get_args

import pytest
from click.testing import CliRunner, Result
from hypothesis import example, given
from hypothesis import strategies as st
from nacl.encoding import URLSafeBase64Encoder
from nacl.secret import Aead
from pyotp import TOTP, random_base32
from sqlalchemy import func, select, text, update
from standardwebhooks.webhooks import Webhook

from service_kit.signatures import new_secret
from task_api.accounts.by_mail import ByMail
from task_api.accounts.passwords import digest
from task_api.cli import main
from task_api.config import Settings
from task_api.store.accounts import SECOND_FACTORS
from task_api.transfer import SNAPSHOT, export
from task_api.webhooks import service
from task_core import webhooks as webhook_store
from task_core.config import SecretKey, parse_keys
from task_core.database import Database
from task_core.delivery import Deliverer
from task_core.encryption import EncryptedColumn, Keyring, Kind, Transaction, Undecryptable
from task_core.schema import LARGEST_KEY, LOCAL_ACCOUNT, accounts, metadata, webhooks

from .conftest import KEY, PASSWORD, Client, Serve, log_in, log_in_tokens
from .test_webhooks import URL, Receiver, create, drain, register

NEW = SecretKey("k2", "Zt7uXw3vY9aB5cD1eF8gH2iJ6kL4mN0p")
OLD, BOTH = Keyring((KEY,)), Keyring((NEW, KEY))
KINDS: tuple[Kind, ...] = get_args(Kind)
ROW_IDS = st.integers(min_value=0, max_value=LARGEST_KEY)


def unbound(secret: str, key: SecretKey = KEY) -> str:
    """Return a ciphertext as the version before wrote it."""
    derived = blake2b(key.secret.encode(), digest_size=32, person=b"secrets at rest").digest()
    return f"{key.kid}:" + Aead(derived).encrypt(secret.encode(), encoder=URLSafeBase64Encoder).decode()


def row(database: Database) -> Any:
    with database.read() as connection:
        return connection.execute(select(webhooks)).one()


def check_signature(client: Client, database: Database, keyring: Keyring, secret: str) -> None:
    """Fail where a change of a task does not arrive once at its webhook, signed with the secret."""
    receiver = Receiver()
    create(client)
    drain(Deliverer(database, keyring, receiver))
    ((headers, body),) = receiver.attempts
    assert Webhook(secret).verify(body.decode(), headers)


def encrypt(settings: Settings, *keys: SecretKey) -> Result:
    place = {"DATABASE_URL": settings.database_url} if settings.postgresql else {"DB_PATH": settings.db_path}
    texts = ",".join(f"{key.kid}:{key.secret}" for key in keys)
    return CliRunner().invoke(main, ["encrypt-secrets"], env={**place, "ENCRYPTION_KEYS": texts, "WEBHOOKS": "on"})


@given(secret=st.text(max_size=200), kind=st.sampled_from(KINDS), row_id=ROW_IDS)
def test_what_is_encrypted_is_decrypted_by_any_keyring_that_has_the_key(secret: str, kind: Kind, row_id: int) -> None:
    ciphertext = OLD.encrypt(secret, kind, row_id)
    assert ciphertext != OLD.encrypt(secret, kind, row_id)  # equal secrets do not show
    assert BOTH.decrypt(ciphertext, kind, row_id) == secret
    assert BOTH.encrypt(secret, kind, row_id).startswith("k2:")


@given(kind=st.sampled_from(KINDS), row_id=ROW_IDS, other=st.tuples(st.sampled_from(KINDS), ROW_IDS))
def test_a_ciphertext_is_no_secret_of_another_row_or_kind(kind: Kind, row_id: int, other: tuple[Kind, int]) -> None:
    ciphertext = OLD.encrypt("whsec_secret", kind, row_id)
    if other != (kind, row_id):
        for copied in (ciphertext, ciphertext.replace(":2:", ":")):  # as if it were of the version before
            with pytest.raises(Undecryptable, match="is of another row"):
                BOTH.decrypt(copied, *other)


@given(secret=st.text(max_size=200), row_id=ROW_IDS)
def test_ciphertexts_of_the_version_before_are_read_where_it_wrote_them_alone(secret: str, row_id: int) -> None:
    assert BOTH.decrypt(unbound(secret), "webhook", row_id) == secret
    with pytest.raises(Undecryptable):
        BOTH.decrypt(unbound(secret), "second factor of account", row_id)


@given(place=st.integers(min_value=0), character=st.sampled_from("AbC019-_:"), kind=st.sampled_from(KINDS))
@example(place=3, character=":", kind="second factor of account")  # base64 passes over what it does not know
def test_a_ciphertext_that_was_changed_is_not_decrypted(place: int, character: str, kind: Kind) -> None:
    ciphertext = OLD.encrypt("whsec_secret", kind, 1)
    place %= len(ciphertext) - 4  # the last characters hold bits that base64 passes over
    changed = ciphertext[:place] + character + ciphertext[place + 1 :]
    if changed != ciphertext:
        with pytest.raises(Undecryptable):
            BOTH.decrypt(changed, kind, 1)


def test_the_reason_names_the_key_and_no_secret() -> None:
    ciphertext = OLD.encrypt("whsec_secret", "webhook", 1)
    with pytest.raises(Undecryptable, match="'k1', which ENCRYPTION_KEYS lacks"):
        Keyring((NEW,)).decrypt(ciphertext, "webhook", 1)
    another = SecretKey("k1", NEW.secret)
    with pytest.raises(Undecryptable, match="not encrypted with the key 'k1'") as error:
        Keyring((another,)).decrypt(ciphertext, "webhook", 1)
    assert "whsec" not in str(error.value)
    assert another.secret not in str(error.value) + repr(another)


@pytest.mark.parametrize("kind", KINDS)
def test_the_reason_names_what_to_do_where_there_is_no_ciphertext(kind: Kind) -> None:
    with pytest.raises(Undecryptable, match="its ciphertext is missing, as in an export of the version before: turn"):
        OLD.decrypt("", kind, 1)


def test_no_secret_is_in_the_database(serve: Serve, database: Database) -> None:
    client = serve(webhooks="on")
    created = register(client)
    new = client.post(f"/webhooks/{created['id']}/rotate-secret").json["secret"]
    held = row(database)
    assert (held.secret, held.previous_secret) == ("", None)
    text = " ".join(map(str, held))
    assert not any(secret.removeprefix("whsec_") in text for secret in (created["secret"], new))


def test_secrets_from_before_are_used_and_then_encrypted(serve: Serve, settings: Settings, database: Database) -> None:
    client = serve(webhooks="on")
    register(client)
    old, before = new_secret(), new_secret()
    plain = {"encrypted_secrets": None, "secret": old, "previous_secret": before}
    with database.write() as connection:
        connection.execute(update(webhooks).values(**plain))
    for kid in (None, "k1", "k2"):
        if kid == "k1":
            assert "webhook: 1 secrets were encrypted; 1 were read back with" in encrypt(settings, KEY).output
        if kid == "k2":
            assert encrypt(settings, NEW, KEY).output == (
                "second factor of account: 0 secrets were encrypted; 0 were read back with the key k2 alone\n"
                "webhook: 1 secrets were encrypted; 1 were read back with the key k2 alone\n"
            )
            assert "webhook: 0 secrets were encrypted; 1 were" in encrypt(settings, NEW).output  # the old key may go
        check_signature(client, database, Keyring((NEW,)) if kid == "k2" else BOTH, old)
        assert row(database).encrypted_secrets is kid or row(database).encrypted_secrets.startswith(f"{kid}:")
    assert row(database).secret == ""


def test_a_secret_that_the_version_before_rotates_is_the_one_that_signs(
    serve: Serve, settings: Settings, database: Database
) -> None:
    client = serve(webhooks="on")
    register(client)
    new = new_secret()
    with database.write() as connection:  # as that version does: it knows of no encryption
        connection.execute(update(webhooks).values(secret=new, previous_secret=""))
    for number in range(2):
        check_signature(client, database, BOTH, new)
        assert f"webhook: {1 - number} secrets were encrypted" in encrypt(settings, KEY).output
    assert (row(database).secret, row(database).previous_secret) == ("", None)


def test_a_key_that_took_the_name_of_another_is_not_taken_for_it(database: Database, settings: Settings) -> None:
    service.create(database, Keyring((KEY,)), LOCAL_ACCOUNT, URL, insecure=False)
    refused = encrypt(settings, SecretKey(KEY.kid, NEW.secret))
    assert refused.exit_code == 1
    assert refused.output.startswith("task-api: the secret of webhook 1: it is not encrypted with the key 'k1'")
    assert "ENCRYPTION_KEYS: there is no key to encrypt with; make one" in encrypt_without_keys(settings)


def encrypt_without_keys(settings: Settings) -> str:
    place = {"DATABASE_URL": settings.database_url} if settings.postgresql else {"DB_PATH": settings.db_path}
    return CliRunner().invoke(main, ["encrypt-secrets"], env={**place, "ENCRYPTION_KEYS": "", "WEBHOOKS": "off"}).output


def test_many_secrets_are_encrypted_in_pieces(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("task_core.encryption.AT_ONCE", 2)
    for _ in range(5):
        service.create(database, Keyring((KEY,)), LOCAL_ACCOUNT, URL, insecure=False)
    assert "webhook: 5 secrets were encrypted; 5 were read back" in encrypt(settings, NEW, KEY).output


@pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
def test_who_holds_a_row_that_is_to_be_encrypted_is_in_no_deadlock(settings: Settings, database: Database) -> None:
    for _ in range(2):
        service.create(database, OLD, LOCAL_ACCOUNT, URL, insecure=False)
    waiting = select(func.count()).select_from(text("pg_stat_activity")).where(text("wait_event_type = 'Lock'"))
    with ThreadPoolExecutor(1) as pool:
        with database.write() as connection:
            webhook_store.change(connection, 2, {"failures": 1})
            encrypting = pool.submit(encrypt, settings, NEW, KEY)
            with database.read() as watching:
                while not watching.scalar(waiting):
                    assert not encrypting.done(), encrypting.result().output
            webhook_store.change(connection, 1, {"failures": 1})
        assert "webhook: 2 secrets were encrypted; 2 were read back" in encrypting.result().output


def test_a_key_that_is_missing_is_named_and_its_webhook_waits(
    serve: Serve, settings: Settings, database: Database
) -> None:
    client = serve(webhooks="on")
    one = f"/webhooks/{register(client)['id']}"
    task = create(client)
    refused = encrypt(settings, NEW)
    assert (refused.exit_code, refused.output) == (
        1,
        "task-api: the secret of webhook 1: it is encrypted with the key 'k1', which ENCRYPTION_KEYS lacks: add it\n",
    )
    receiver = Receiver()
    Deliverer(database, Keyring((NEW,)), receiver).deliver()
    assert receiver.attempts == []
    assert client.get(one).json["last_error"] == "its secret cannot be decrypted: inform whoever runs the service"
    replaced = serve(webhooks="on", encryption_keys=(NEW,)).post(f"{one}/rotate-secret").json["secret"]
    drain(Deliverer(database, Keyring((NEW,)), receiver))
    headers, body = receiver.attempts[0]
    assert Webhook(replaced).verify(body.decode(), headers)["data"]["id"] == task


def test_a_webhook_does_not_sign_with_the_ciphertext_of_another(serve: Serve, database: Database) -> None:
    client = serve(webhooks="on")
    others = register(client)
    register(client)
    with database.write() as connection:
        copied = select(webhooks.c.encrypted_secrets).where(webhooks.c.id == others["id"]).scalar_subquery()
        connection.execute(update(webhooks).where(webhooks.c.id != others["id"]).values(encrypted_secrets=copied))
    task, receiver = create(client), Receiver()
    drain(Deliverer(database, OLD, receiver))
    ((headers, body),) = receiver.attempts
    assert Webhook(others["secret"]).verify(body.decode(), headers)["data"]["id"] == task


def test_ciphertexts_of_the_version_before_are_bound_by_encrypt_secrets(
    serve: Serve, settings: Settings, database: Database
) -> None:
    client = serve(webhooks="on")
    register(client)
    secret = new_secret()
    with database.write() as connection:
        connection.execute(update(webhooks).values(encrypted_secrets=unbound(secret)))
    for number in range(2):
        check_signature(client, database, OLD, secret)
        ran = encrypt(settings, KEY)
        assert f"webhook: {1 - number} secrets were encrypted; 1 were read back" in ran.output
    assert row(database).encrypted_secrets.startswith("k1:2:")


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ({"encrypted_secrets": OLD.encrypt("whsec_secret", "webhook", 1)}, ": it is encrypted with the key 'k1'"),
        ({"encrypted_secrets": unbound("whsec_secret", NEW)}, " was written meanwhile, as a process without this key"),
        ({"secret": "whsec_secret"}, " was written meanwhile, as a process without this key"),
    ],
)
def test_a_secret_that_is_written_meanwhile_is_not_counted_as_encrypted(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, written: dict[str, str], reason: str
) -> None:
    service.create(database, OLD, LOCAL_ACCOUNT, URL, insecure=False)
    confirm = EncryptedColumn.confirm

    def meanwhile(self: EncryptedColumn, read: Transaction, keyring: Keyring) -> int:
        with database.write() as connection:
            connection.execute(update(webhooks).values(**written))
        return confirm(self, read, keyring)

    monkeypatch.setattr(EncryptedColumn, "confirm", meanwhile)
    refused = encrypt(settings, NEW, KEY)
    assert refused.exit_code == 1
    assert refused.output.startswith(f"task-api: the secret of webhook 1{reason}")


def test_a_secret_that_a_reader_keeps_in_sqlites_file_is_reported(
    serve: Serve, settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve(auth="on", jwt_keys=(KEY,), encryption_keys=())
    secret = enrol(client, log_in(client)).secret.encode()
    database.settle()
    monkeypatch.setattr("task_core.sqlite.BUSY_SECONDS", 0)
    with database.read() as reader:
        reader.exec_driver_sql(SNAPSHOT[database.dialect])
        reader.execute(select(accounts)).all()
        meanwhile = encrypt(settings, KEY)
    if not settings.postgresql:
        assert meanwhile.exit_code == 1
        assert meanwhile.output.startswith("task-api: DB_PATH: what was overwritten is still in SQLite's file")
    assert encrypt(settings, KEY).exit_code == 0
    assert secret not in everything_stored(settings, database)


def account(database: Database) -> Any:
    with database.read() as connection:
        return connection.execute(select(accounts).where(accounts.c.email == "ada@example.org")).one()


def enrol(client: Client, headers: dict[str, str]) -> TOTP:
    return TOTP(client.post("/auth/totp", json={"password": PASSWORD}, headers=headers).json["secret"])


def confirmed(client: Client, headers: dict[str, str], code: str) -> int:
    status: int = client.post("/auth/totp/confirm", json={"code": code}, headers=headers).status_code
    return status


def test_the_secret_of_a_second_factor_is_encrypted_and_bound_to_its_account(
    guarded: Client, database: Database
) -> None:
    ada, bob = log_in(guarded), log_in(guarded, "bob@example.org")
    totp = enrol(guarded, ada)
    held = account(database)
    assert totp.secret not in " ".join(map(str, held))
    assert SECOND_FACTORS.read(OLD, held) == totp.secret
    others = enrol(guarded, bob)
    with database.write() as connection:
        taken = select(accounts.c.encrypted_totp_secret).where(accounts.c.email == "bob@example.org").scalar_subquery()
        connection.execute(update(accounts).where(accounts.c.id == held.id).values(encrypted_totp_secret=taken))
    assert [confirmed(guarded, ada, one.now()) for one in (totp, others)] == [403, 403]
    assert confirmed(guarded, bob, others.now()) == 200


def test_codes_by_what_is_in_the_place_of_an_encrypted_secret_are_wrong(guarded: Client, database: Database) -> None:
    ada = log_in(guarded)
    totp = enrol(guarded, ada)
    placeholder = TOTP(account(database).totp_secret)  # the version before refuses codes by it, and does not fail
    assert [confirmed(guarded, ada, one.now()) for one in (placeholder, totp)] == [403, 200]


def test_second_factors_from_before_work_and_are_encrypted_with_each_key(
    serve: Serve, settings: Settings, database: Database
) -> None:
    client = serve(auth="on", jwt_keys=(KEY,), encryption_keys=())  # as the version before
    ada = log_in(client)
    totp = enrol(client, ada)
    assert account(database).totp_secret == totp.secret
    if not settings.postgresql:
        database.settle()  # into the file
    codes = client.post("/auth/totp/confirm", json={"code": totp.now()}, headers=ada).json["recovery_codes"]
    assert len(codes) == 10
    for keys, encrypted in (((KEY,), 1), ((NEW, KEY), 1), ((NEW,), 0)):
        with database.write() as connection:
            connection.execute(update(accounts).values(totp_step=0))  # a code that was used is valid again
        client = serve(auth="on", jwt_keys=(KEY,), encryption_keys=keys)
        login = {"email": "ada@example.org", "password": PASSWORD}
        assert client.post("/auth/login", json={**login, "code": totp.now()}).status_code == 200
        done = f"second factor of account: {encrypted} secrets were encrypted; 1 were read back with the key"
        assert done in encrypt(settings, *keys).output
        assert account(database).encrypted_totp_secret.startswith(f"{keys[0].kid}:2:")
        assert totp.secret.encode() not in everything_stored(settings, database)
    refused = serve(auth="on", jwt_keys=(KEY,), encryption_keys=(KEY,)).post(
        "/auth/login", json={**login, "code": totp.now()}
    )
    assert (refused.status_code, refused.json["detail"]) == (
        403,
        "codes of the authenticator cannot be checked: use a recovery code, or inform whoever runs the service",
    )
    without = serve(auth="on", jwt_keys=(KEY,), encryption_keys=())
    assert without.post("/auth/login", json={**login, "code": codes[0]}).status_code == 200
    assert encrypt(settings, KEY).output.startswith("task-api: the secret of second factor of account 1: it is encryp")


def test_a_second_factor_that_the_version_before_turns_off_or_renews_is_so(guarded: Client, database: Database) -> None:
    ada = log_in(guarded)
    enrol(guarded, ada)
    with database.write() as connection:  # as that version does
        connection.execute(update(accounts).values(totp_secret=None))
    assert confirmed(guarded, ada, "123456") == 409
    secret = random_base32()
    with database.write() as connection:
        connection.execute(update(accounts).values(totp_secret=secret))
    assert confirmed(guarded, ada, TOTP(secret).now()) == 200


class Outbox:
    """Keeps the text of mails."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts

    def send(self, _to: str, _subject: str, text: str) -> None:
        self.texts.append(text)


def everything_stored(settings: Settings, database: Database) -> bytes:
    """Return what is in all tables, and where there is a file, all that is in that."""
    with database.read() as connection:
        rows = [repr(one) for table in metadata.sorted_tables for one in connection.execute(select(table)).all()]
    stored = "\n".join(rows).encode()
    files = [] if settings.postgresql else Path(settings.db_path).parent.glob(f"{Path(settings.db_path).name}*")
    return stored + b"".join(file.read_bytes() for file in files)


def test_nothing_that_opens_an_account_or_signs_is_stored_in_clear(
    serve: Serve, settings: Settings, database: Database
) -> None:
    sent: list[str] = []
    client = serve(auth="on", jwt_keys=(KEY,), webhooks="on")
    tokens = log_in_tokens(client)
    ada = {"Authorization": f"Bearer {tokens['access_token']}"}
    totp = enrol(client, ada)
    codes = client.post("/auth/totp/confirm", json={"code": totp.now()}, headers=ada).json["recovery_codes"]
    personal = [
        client.post("/auth/tokens", json={"name": "one", "scopes": [scope], "days": 1}, headers=ada).json["token"]
        for scope in ("tasks:read", "calendar:read")
    ]
    hook = client.post("/webhooks", json={"url": URL}, headers=ada).json
    rotated = client.post(f"/webhooks/{hook['id']}/rotate-secret", headers=ada).json
    refreshed = client.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]}).json
    mailed = ByMail(database, Outbox(sent), "https://app.example/", digest)
    mailed.register("bob@example.org")
    mailed.forgot("ada@example.org")
    links = [re.findall("[#](?:register|reset)=(.+)", text)[0] for text in sent]
    assert len(links) == 2
    secrets = [totp.secret, *codes, *(code.replace("-", "") for code in codes), *personal, *links, PASSWORD]
    secrets += [one["secret"].removeprefix("whsec_") for one in (hook, rotated)]
    secrets += [one[name] for one in (tokens, refreshed) for name in ("access_token", "refresh_token", "device_token")]
    stored = everything_stored(settings, database)
    assert b"ada@example.org" in stored
    assert [secret for secret in secrets if secret.encode() in stored] == []
    lines = client.get("/auth/me/export", headers=ada).text + b"".join(export(database)).decode()
    assert "ada@example.org" in lines
    assert [secret for secret in secrets if secret in lines] == []
    assert ":2:" not in client.get("/auth/me/export", headers=ada).text  # nor is a ciphertext


def test_every_column_that_is_named_a_secret_is_one_that_encrypt_secrets_encrypts() -> None:
    kept = {
        column
        for one in (SECOND_FACTORS, webhook_store.SECRETS)
        for column in (one.column, *(one.column.table.c[name] for name in one.cleared()))
    }
    assert kept == {column for table in metadata.sorted_tables for column in table.c if "secret" in column.name}


def test_webhooks_need_a_key_and_there_is_no_default() -> None:
    (problem,) = Settings(webhooks="on").conflicts
    assert problem.startswith("ENCRYPTION_KEYS: WEBHOOKS=on needs a key for the webhooks' secrets; make one with: ")
    assert Settings().conflicts == []
    assert Settings(webhooks="on", encryption_keys=parse_keys(f"k1:{KEY.secret}")).conflicts == []
    with pytest.raises(ValueError, match="no key to encrypt with"):
        Keyring(()).encrypt("", "webhook", 1)
