"""compose.yaml read as a document: what holds for every service, also for those that no test can start."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tooling import compose
from tooling.project import services

DOCUMENTS: list[dict[str, dict[str, Any]]] = [yaml.safe_load(file.read_text())["services"] for file in compose.FILES]
SERVICES = {name: service for document in reversed(DOCUMENTS) for name, service in document.items()}
OWN = "|".join(service.name for service in services())
OPTIONAL = {"grafana": ["grafana"], "jaeger": ["traces"]}


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_has_a_full_version_or_is_our_own(name: str) -> None:
    assert re.fullmatch(
        rf"({OWN}):latest|[a-z./]+/postgres:\d+-trixie|[a-z./]+:v?\d+\.\d+\.\d+", SERVICES[name]["image"]
    )


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_no_rights_and_no_port_beyond_this_machine(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_that_goes_on_running_has_a_health_check(name: str) -> None:
    service = SERVICES[name]
    assert ("test" in service["healthcheck"]) == (service["restart"] == "unless-stopped")


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_stands_in_the_file(name: str) -> None:
    settings = SERVICES[name].get("environment", {})
    assert not [setting for setting in settings if re.search("PASSWORD|SECRET|KEY|TOKEN|DATABASE_URL", setting)]


KEYS = {
    "cap_add",
    "cap_drop",
    "command",
    "depends_on",
    "entrypoint",
    "env_file",
    "environment",
    "healthcheck",
    "image",
    "logging",
    "ports",
    "profiles",
    "read_only",
    "restart",
    "security_opt",
    "shm_size",
    "stop_grace_period",
    "stop_signal",
    "tmpfs",
    "volumes",
}
"""What a service may have: nothing by which a container gets rights of the machine."""


def every(key: str) -> list[tuple[str, Any]]:
    """Return what any file has under a key of a service, with the service's name."""
    return [(name, service[key]) for document in DOCUMENTS for name, service in document.items() if key in service]


def test_no_container_shares_anything_of_the_machine_but_files_of_monitoring_to_read() -> None:
    assert {key for document in DOCUMENTS for service in document.values() for key in service} <= KEYS
    mounts = [mount for _, mounted in every("volumes") for mount in mounted]
    shared = [mount for mount in mounts if not re.fullmatch(r"[a-z]+:/[\w/]+", mount)]
    assert shared
    assert [
        one for one in shared if not re.fullmatch(r"\./(services/\w+/)?monitoring/[\w./-]+:/[\w./-]+:ro", one)
    ] == []


def test_the_service_has_accounts_and_grafana_has_no_guests() -> None:
    assert SERVICES["task-api"]["environment"]["AUTH"] == "on"
    assert not [settings for _, settings in every("environment") if settings.get("AUTH", "on") != "on"]
    opened = {"GF_AUTH_ANONYMOUS_ENABLED", "GF_AUTH_PROXY_ENABLED", "GF_AUTH_DISABLE_LOGIN_FORM"}
    assert not opened & SERVICES["grafana"]["environment"].keys()
    assert SERVICES["grafana"]["environment"]["GF_USERS_ALLOW_SIGN_UP"] == "false"
    assert not [one for _, settings in every("environment") for one in settings if "HOST_AUTH_METHOD" in one]


def test_only_what_a_person_may_leave_out_has_a_profile() -> None:
    assert {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service} == OPTIONAL


def test_every_page_with_a_port_is_shown_to_the_person() -> None:
    assert {name for name, service in SERVICES.items() if "ports" in service} == compose.PAGES.keys()


def test_every_service_is_in_the_stack_on_its_own_port() -> None:
    for service in services():
        assert SERVICES[service.name]["image"] == f"{service.name}:latest"
        (port,) = SERVICES[service.name]["ports"]
        assert port.endswith(f"_PORT:-{service.port}}}:5000")


def test_what_was_left_out_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    compose.show({"task-api": "http://127.0.0.1:5000"}, left_out=["grafana"])
    shown = capsys.readouterr().out
    assert re.search(r"task-api .*http://127\.0\.0\.1:5000", shown)
    assert re.search(r"grafana .*not started \(--no-grafana\)", shown)


def test_a_checkout_under_umask_077_is_readable_to_the_containers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, file, other = tmp_path / "rules", tmp_path / "rules" / "alerts.yml", tmp_path / "receiver.py"
    folder.mkdir(mode=0o700)
    for path in (file, other):
        path.touch(mode=0o600)
    volumes = [{"type": "bind", "source": str(folder)}, {"type": "volume", "source": "data"}]
    stack = {
        "services": {"a": {"volumes": volumes}, "b": {"volumes": [{"type": "bind", "source": str(other)}]}, "c": {}}
    }
    monkeypatch.setattr(compose, "_output", lambda *_: json.dumps(stack))
    compose.make_mounts_readable()
    assert [path.stat().st_mode & 0o777 for path in (folder, file, other)] == [0o755, 0o644, 0o644]
