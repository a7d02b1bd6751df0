from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update
from standardwebhooks.webhooks import Webhook

from service_kit.signatures import new_secret
from task_api.cli import main
from task_api.config import Settings
from task_api.webhooks import service
from task_core.config import SecretKey, parse_keys
from task_core.database import Database
from task_core.delivery import Deliverer
from task_core.encryption import Keyring, Undecryptable
from task_core.schema import LOCAL_ACCOUNT, webhooks

from .conftest import KEY, Serve
from .test_webhooks import URL, Receiver, create, drain, register

NEW = SecretKey("k2", "Zt7uXw3vY9aB5cD1eF8gH2iJ6kL4mN0p")
BOTH = Keyring((NEW, KEY))


def row(database: Database) -> Any:
    with database.read() as connection:
        return connection.execute(select(webhooks)).one()


def encrypt(settings: Settings, *keys: SecretKey) -> Result:
    place = {"DATABASE_URL": settings.database_url} if settings.postgresql else {"DB_PATH": settings.db_path}
    texts = ",".join(f"{key.kid}:{key.secret}" for key in keys)
    return CliRunner().invoke(main, ["encrypt-secrets"], env={**place, "ENCRYPTION_KEYS": texts, "WEBHOOKS": "on"})


@given(secret=st.text(max_size=200))
def test_what_is_encrypted_is_decrypted_by_any_keyring_that_has_the_key(secret: str) -> None:
    text = Keyring((KEY,)).encrypt(secret)
    assert text != Keyring((KEY,)).encrypt(secret)  # equal secrets do not show
    assert BOTH.decrypt(text) == secret
    assert BOTH.encrypt(secret).startswith("k2:")


@given(place=st.integers(min_value=0), character=st.sampled_from("AbC019-_:"))
def test_a_text_that_was_changed_is_not_decrypted(place: int, character: str) -> None:
    text = Keyring((KEY,)).encrypt("whsec_secret")
    place %= len(text) - 4  # the last characters hold bits that base64 passes over
    changed = text[:place] + character + text[place + 1 :]
    if changed != text:
        with pytest.raises(Undecryptable):
            BOTH.decrypt(changed)


def test_the_reason_names_the_key_and_no_secret() -> None:
    text = Keyring((KEY,)).encrypt("whsec_secret")
    with pytest.raises(Undecryptable, match="'k1', which ENCRYPTION_KEYS lacks"):
        Keyring((NEW,)).decrypt(text)
    another = SecretKey("k1", NEW.secret)
    with pytest.raises(Undecryptable, match="not encrypted with the key 'k1'") as error:
        Keyring((another,)).decrypt(text)
    assert "whsec" not in str(error.value)
    assert another.secret not in str(error.value) + repr(another)


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
    receiver = Receiver()
    for number, kid in enumerate([None, "k1", "k2"]):
        if kid == "k1":
            assert "1 secrets were encrypted" in encrypt(settings, KEY).output
        if kid == "k2":
            assert "1 secrets were encrypted; all are encrypted with the key k2" in encrypt(settings, NEW, KEY).output
            assert "0 secrets were encrypted" in encrypt(settings, NEW).output  # the old key may go
        create(client)
        drain(Deliverer(database, Keyring((NEW,)) if kid == "k2" else BOTH, receiver))
        headers, body = receiver.attempts[number]
        assert Webhook(old).verify(body.decode(), headers)
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
    receiver = Receiver()
    for number in range(2):
        create(client)
        drain(Deliverer(database, BOTH, receiver))
        headers, body = receiver.attempts[number]
        assert Webhook(new).verify(body.decode(), headers)
        assert encrypt(settings, KEY).output.startswith(f"{1 - number} secrets were encrypted")
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
    monkeypatch.setattr("task_api.cli.ENCRYPTED_AT_ONCE", 2)
    for _ in range(5):
        service.create(database, Keyring((KEY,)), LOCAL_ACCOUNT, URL, insecure=False)
    assert "5 secrets were encrypted" in encrypt(settings, NEW, KEY).output


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


def test_webhooks_need_a_key_and_there_is_no_default() -> None:
    (problem,) = Settings(webhooks="on").conflicts
    assert problem.startswith("ENCRYPTION_KEYS: WEBHOOKS=on needs a key for the webhooks' secrets; make one with: ")
    assert Settings().conflicts == []
    assert Settings(webhooks="on", encryption_keys=parse_keys(f"k1:{KEY.secret}")).conflicts == []
    with pytest.raises(ValueError, match="no key to encrypt with"):
        Keyring(()).encrypt("")
