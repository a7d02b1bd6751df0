from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import service_kit.config
from service_kit.config import ConfigurationError, describe
from task_api import config
from task_api.config import Rate, Settings

GOOD_SECRET = "nF7wqz0TzY5cVxk2L9bR4mJ8sH1dGpQe"
GOOD = {"AUTH": "on", "JWT_KEYS": f"k1:{GOOD_SECRET}"}


def load(environment: Mapping[str, str]) -> Settings:
    return service_kit.config.load(Settings, environment)


def problems(**environment: str) -> list[str]:
    try:
        load(environment)
    except ConfigurationError as error:
        return error.problems
    return []


def test_without_any_setting_it_is_the_embedded_service_on_loopback() -> None:
    settings = load({})
    assert settings == Settings()
    assert (settings.host, settings.port, settings.workers, settings.auth) == ("127.0.0.1", 5000, 2, "off")
    assert any("AUTH=off" in note for note in settings.weaker)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "abc"),
        ("PORT", "70000"),
        ("WORKERS", "0"),
        ("THREADS", "-1"),
        ("LOG_LEVEL", "loud"),
        ("AUTH", "maybe"),
        ("DRAIN_SECONDS", "long"),
        ("DATABASE_URL", "postgresql://me:pw@host:port/tasks"),
        ("RATE_LIMIT", "many"),
        ("RATE_LIMIT", "0/minute"),
        ("LOGIN_LIMIT", "5"),
        ("DATABASE_URL", "mysql://x/y"),
        ("DATABASE_URL", "postgresql://host"),
        ("CORS_ORIGINS", "*"),
        ("CORS_ORIGINS", "http://[::1]evil"),
        ("DB_PATH", "/"),
        ("JWT_KEYS", "k1"),
        ("JWT_KEYS", "k 1:" + GOOD_SECRET),
        ("JWT_KEYS", f"a:{GOOD_SECRET},a:{GOOD_SECRET}"),
        ("JWT_KEYS", f"k1:{GOOD_SECRET}\udce9"),
        ("ENCRYPTION_KEYS", f"k1:{GOOD_SECRET}\udce9"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost"),
        ("TRUSTED_PROXIES", "all"),
        ("MAX_BODY_BYTES", "1"),
    ],
)
def test_a_bad_value_is_named_with_what_is_expected(name: str, value: str) -> None:
    reported = problems(**{name: value})
    assert [problem.partition(":")[0] for problem in reported] == [name]
    assert len(reported[0]) > len(name) + 10


def test_all_faults_are_reported_at_once() -> None:
    assert [p.partition(":")[0] for p in problems(PORT="x", WORKERS="y", HOST="0.0.0.0")] == ["PORT", "WORKERS", "AUTH"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.org"])
def test_without_accounts_it_refuses_to_listen_beyond_loopback(host: str) -> None:
    (problem,) = problems(HOST=host)
    assert "AUTH=on" in problem
    assert problems(HOST=host, **GOOD) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_without_accounts_it_listens_on_loopback(host: str) -> None:
    assert problems(HOST=host) == []


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "tiny-one",
        "a" * 31,
        "change-me-change-me-change-me-change-me",
        "this-is-an-example-secret-0123456789",
        "abab" * 20,
    ],
)
def test_a_missing_short_or_example_secret_is_refused_with_a_way_to_make_one(secret: str) -> None:
    (problem,) = problems(AUTH="on", JWT_KEYS=f"k1:{secret}" if secret else "")
    assert problem.startswith("JWT_KEYS")
    assert "secrets.token_urlsafe" in problem
    assert secret not in problem or not secret


def test_the_first_key_signs_and_all_are_kept() -> None:
    settings = load({"JWT_KEYS": f"new:{GOOD_SECRET}, old:{GOOD_SECRET[::-1]}"})
    assert [key.kid for key in settings.jwt_keys] == ["new", "old"]


@given(st.integers(1, 999_999_999), st.integers(1, 9999), st.sampled_from(["second", "minute", "hour", "day"]))
def test_any_rate_that_can_be_written_can_be_read(limit: int, count: int, unit: str) -> None:
    expected = Rate(limit, count * config.SECONDS[unit])
    assert config.parse_rate(f"{limit}/{count}{unit}s") == expected
    assert config.parse_rate(f"{limit}/{unit}") == Rate(limit, config.SECONDS[unit])


def test_the_description_has_every_setting_and_no_secret() -> None:
    settings = load({**GOOD, "DATABASE_URL": "postgresql://me:hunter22@db/tasks", "CORS_ORIGINS": "https://a.example"})
    rows = describe(settings)
    assert {name.lower() for name, _, _ in rows} == set(Settings.__struct_fields__)
    shown = repr(rows) + repr(settings.jwt_keys)
    assert GOOD_SECRET not in shown
    assert "hunter22" not in shown
    assert all(meaning for _, _, meaning in rows)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "postgresql://db/tasks?user=me&password=hunter22"),
        ("DATABASE_URL", "postgresql://db/tasks?sslpassword=hunter22&user=me"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://me:hunter22@collector:4318"),
    ],
)
def test_a_password_in_a_url_is_not_shown_wherever_it_stands(name: str, value: str) -> None:
    assert "hunter22" not in repr(describe(load({**GOOD, name: value})))


@given(st.text("abc/?#@:12", min_size=1, max_size=12), st.text("xyz/?#@:34", min_size=1, max_size=12))
def test_no_part_of_a_password_that_is_not_escaped_is_shown(before: str, after: str) -> None:
    environment = {"DATABASE_URL": f"postgresql://me:{before}hunter22{after}@db/tasks"}
    try:
        shown = repr(describe(load(environment)))
    except ConfigurationError as error:
        shown = repr(error.problems)
    assert "hunter22" not in shown


@pytest.mark.parametrize("password", ["s3cret/Pass", "s3cret?Pass", "12?3Pass", "12#3Pass", "s3cret:Pass/"])
def test_a_password_that_is_not_escaped_is_refused_with_the_remedy_and_not_repeated(password: str) -> None:
    (problem,) = problems(DATABASE_URL=f"postgresql://me:{password}@db/tasks")
    assert problem.startswith("DATABASE_URL")
    assert "%2F" in problem
    assert "s3cret" not in problem
    assert "Pass" not in problem


def test_a_database_in_memory_is_refused_with_the_remedy() -> None:
    (problem,) = problems(DB_PATH=":memory:")
    assert "name a file" in problem


@pytest.mark.parametrize(("text", "level"), [("INFO", "info"), ("Warning", "warning"), ("debug", "debug")])
def test_a_choice_is_taken_in_capitals_too(text: str, level: str) -> None:
    assert load({"LOG_LEVEL": text}).log_level == level


def test_a_choice_that_is_none_is_refused_with_those_there_are() -> None:
    assert problems(LOG_LEVEL="loud") == ["LOG_LEVEL: expected one of debug, info, warning, error (it is 'loud')"]


def test_the_metrics_folder_may_not_be_the_databases(tmp_path: Path) -> None:
    environment = {"DB_PATH": str(tmp_path / "tasks.db"), "PROMETHEUS_MULTIPROC_DIR": f"{tmp_path}/."}
    with pytest.raises(ConfigurationError, match="PROMETHEUS_MULTIPROC_DIR: name a folder of its own"):
        load(environment)


def test_weaker_settings_are_noted() -> None:
    keys = {"ENCRYPTION_KEYS": GOOD["JWT_KEYS"]}
    assert load({**GOOD, **keys}).weaker == []
    assert len(load({**GOOD, **keys, "RATE_LIMIT": "off", "LOGIN_LIMIT": "off"}).weaker) == 2
    (note,) = load(GOOD).weaker
    assert note.startswith("ENCRYPTION_KEYS: without one, secrets of second factors are stored in clear; make one with")
