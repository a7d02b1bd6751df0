"""A service with nothing of its own: what the package alone makes of it."""

import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, NoReturn

import pytest
from click.testing import CliRunner
from flask import Flask, Response
from msgspec import Meta, Struct

from service_kit.cli import CommandLine
from service_kit.config import ConfigurationError, Settings, custom, describe, load
from service_kit.http.app import create_app
from service_kit.http.messages import query, respond
from service_kit.http.openapi import Answers, Deprecation, documented
from service_kit.http.problems import Refusal
from service_kit.service import NotReady, Service


class OutOfTea(Exception):
    pass


class TeaSettings(Settings, frozen=True, kw_only=True):
    token: Annotated[str, Meta(min_length=8, description="a secret"), custom(secret=True, show=lambda _: "…")] = ""
    kinds: Annotated[tuple[str, ...], Meta(description="teas"), custom(parse=lambda text: tuple(text.split(",")))] = ()

    @property
    def conflicts(self) -> list[str]:
        return [
            *super().conflicts,
            *(["KINDS: green tea needs TOKEN"] if "green" in self.kinds and not self.token else []),
        ]


class Tea(Service):
    name = "tea-service"
    title = "Tea <Service>"
    version = "1.2.3"
    description = "Tea over HTTP."
    common_problems: ClassVar[Mapping[int, str]] = {503: "The kettle is cold"}
    ready = True

    def check(self) -> None:
        if not self.ready:
            raise NotReady("the kettle is cold")

    def admit(self, context: Any) -> None:
        if context.request.headers.get("X-Guest") == "no":
            raise Refusal(403, "no tea for you")

    def log_fields(self, context: Any) -> dict[str, Any]:
        return {"guest": context.request.headers.get("X-Guest")}

    def headers(self, context: Any) -> list[tuple[str, str]]:
        return [("X-Cups", "1")] if context.request.path == "/tea" else []


class Wanted(Struct, frozen=True):
    kind: str = "black"


@documented(query=Wanted, answers=Answers(ok=Wanted, problems=(409,)), tag="tea")
def pour_tea() -> Response:
    """Pour a cup."""
    if query(Wanted).kind == "green":
        raise OutOfTea
    return respond(query(Wanted))


BREWING = Deprecation(datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, 12, tzinfo=UTC), "/docs#brew")


@documented(answers=Answers(ok=Wanted), deprecation=BREWING, tag="tea")
def brew_tea() -> Response:
    """Brew a pot, as people did before they poured cups."""
    return respond(Wanted())


def spill() -> NoReturn:
    raise RuntimeError("the cup of a@example.org")


@pytest.fixture
def tea() -> Tea:
    return Tea(TeaSettings())


@pytest.fixture
def app(tea: Tea) -> Flask:
    def answer(_error: OutOfTea) -> Response:
        return respond({"detail": "out of tea"}, 409)

    app = create_app(tea, {OutOfTea: answer})
    app.add_url_rule("/tea", "tea", pour_tea, methods=["GET"])
    app.add_url_rule("/pot", "pot", brew_tea, methods=["GET"])
    app.add_url_rule("/spill", "spill", spill, methods=["POST"])
    return app


def get(app: Flask, path: str) -> Any:
    """The response to a GET."""
    return app.test_client().get(path)


def test_probes_name_the_services_version(app: Flask) -> None:
    client = app.test_client()
    assert client.get("/livez").json == {"status": "alive", "version": "1.2.3"}
    assert client.get("/readyz").json == {"status": "ready"}


def test_readiness_fails_with_the_services_own_reason_and_while_it_drains(app: Flask, tea: Tea) -> None:
    tea.ready = False
    refused = get(app, "/readyz")
    assert (refused.status_code, refused.json["detail"]) == (503, "the kettle is cold")
    assert get(app, "/livez").status_code == 200
    tea.ready, tea.draining = True, lambda: True
    assert "draining" in get(app, "/readyz").json["detail"]


@pytest.mark.parametrize("rule", ["/cups/<name>", "/cups/<string:name>"])
def test_a_text_in_a_path_holds_no_nul(app: Flask, rule: str) -> None:
    app.add_url_rule(rule, "cup", lambda name: respond({"name": name}))
    assert get(app, "/cups/a%01b").json == {"name": "a\1b"}
    assert get(app, "/cups/a%00b").status_code == 404


def test_the_document_has_the_services_title_version_and_common_problems(app: Flask) -> None:
    document = get(app, "/openapi.json").json
    assert document["info"] == {"title": "Tea <Service>", "version": "1.2.3", "description": "Tea over HTTP."}
    operation = document["paths"]["/tea"]["get"]
    assert set(operation["responses"]) >= {"200", "409", "500", "503"}
    assert operation["responses"]["503"]["description"] == "The kettle is cold"
    assert "503" not in document["paths"]["/livez"]["get"]["responses"]
    assert "security" not in document


def test_the_documents_page_escapes_the_title(app: Flask) -> None:
    assert "<title>Tea &lt;Service&gt;</title>" in get(app, "/docs").text


def test_a_services_own_exception_is_answered_as_it_says_and_any_other_by_500(app: Flask) -> None:
    client = app.test_client()
    assert client.get("/tea?kind=green").status_code == 409
    broken = client.post("/spill")
    assert (broken.status_code, broken.content_type) == (500, "application/problem+json")
    assert "example.org" not in broken.text


def test_a_service_refuses_requests_and_adds_headers(app: Flask) -> None:
    client = app.test_client()
    assert client.get("/tea", headers={"X-Guest": "no"}).status_code == 403
    poured = client.get("/tea")
    assert poured.headers["X-Cups"] == "1"
    assert poured.headers["X-Content-Type-Options"] == "nosniff"
    assert "X-Cups" not in client.get("/livez").headers


def test_a_deprecated_operation_says_so_in_every_response_and_in_the_document(app: Flask) -> None:
    client = app.test_client()
    for answer in (client.get("/pot"), client.get("/pot", headers={"X-Guest": "no"}), client.head("/pot")):
        assert answer.headers["Deprecation"] == "@1767225600"
        assert answer.headers["Sunset"] == "Fri, 01 Jan 2027 12:00:00 GMT"
        assert answer.headers["Link"] == '</docs#brew>; rel="deprecation"'
    operation = get(app, "/openapi.json").json["paths"]["/pot"]["get"]
    assert operation["deprecated"] is True
    for response in operation["responses"].values():
        assert {"Deprecation", "Sunset", "Link"} <= set(response["headers"])


def test_no_other_operation_is_deprecated(app: Flask) -> None:
    client = app.test_client()
    for answer in (client.get("/tea"), client.get("/livez"), client.get("/nowhere")):
        assert {"Deprecation", "Sunset", "Link"}.isdisjoint(answer.headers.keys())
    document = get(app, "/openapi.json").json
    assert "deprecated" not in document["paths"]["/tea"]["get"]
    assert "Deprecation" not in document["paths"]["/tea"]["get"]["responses"]["200"].get("headers", {})


def test_a_deprecation_without_an_end_or_a_guide_is_one_header() -> None:
    assert Deprecation(datetime(2026, 1, 1, tzinfo=UTC)).headers == [("Deprecation", "@1767225600")]


def test_an_operation_ends_after_it_is_deprecated_and_at_a_known_instant() -> None:
    with pytest.raises(ValueError, match="RFC 9745"):
        Deprecation(datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC))
    with pytest.raises(ValueError, match="offset"):
        Deprecation(datetime(2026, 1, 2))


def test_a_secret_is_in_no_message_and_in_no_description() -> None:
    with pytest.raises(ConfigurationError) as raised:
        load(TeaSettings, {"TOKEN": "hunter2"})
    assert "TOKEN" in str(raised.value)
    assert "hunter2" not in str(raised.value)
    settings = load(TeaSettings, {"TOKEN": "hunter2hunter2", "KINDS": "green,black"})
    assert settings.kinds == ("green", "black")
    assert "hunter2" not in repr(describe(settings))


def test_conflicts_are_reported_together_with_other_faults_but_not_for_a_variable_that_is_wrong_itself() -> None:
    with pytest.raises(ConfigurationError) as raised:
        load(TeaSettings, {"KINDS": "green", "PORT": "x"})
    assert [problem.partition(":")[0] for problem in raised.value.problems] == ["PORT", "KINDS"]
    with pytest.raises(ConfigurationError) as raised:
        load(TeaSettings, {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector"})
    assert raised.value.problems == ["OTEL_EXPORTER_OTLP_ENDPOINT: expected http://host:4318 or https://…"]


def test_a_program_named_by_text_is_imported_by_serving_alone() -> None:
    line = CommandLine("tea-service", "1", TeaSettings, "no_such:run", "Tea.", application="no_such:application")
    runner = CliRunner()
    assert "Serve until SIGTERM." in runner.invoke(line, ["--help"]).output
    assert runner.invoke(line, ["check-config"]).exit_code == 0
    for command in ("serve", "routes"):
        assert isinstance(runner.invoke(line, [command], env={"PORT": "0"}).exception, ModuleNotFoundError)


def test_the_command_line_serves_with_the_settings_of_the_environment() -> None:
    served: list[TeaSettings] = []

    def run(settings: TeaSettings, _listener: socket.socket) -> None:
        """Pour until SIGTERM."""
        served.append(settings)

    def application(_settings: TeaSettings) -> Flask:
        made = Flask("tea", static_folder=None)
        made.add_url_rule("/brew/<int:cup>", "brew", str, methods=["POST"])
        return made

    line = CommandLine("tea-service", "1.2.3", TeaSettings, run, "Tea over HTTP.", application=application)
    runner = CliRunner()
    assert runner.invoke(line, ["--version"]).output == "tea-service, version 1.2.3\n"
    assert "Pour until SIGTERM." in runner.invoke(line, ["--help"]).output
    refused = runner.invoke(line, ["serve"], env={"PORT": "x"})
    assert (refused.exit_code, refused.output.startswith("tea-service: PORT:")) == (2, True)
    assert served == []
    assert runner.invoke(line, ["routes"]).output == "POST    /brew/{cup}  -\n"
    listed = runner.invoke(line, ["routes", "--under", "PORT=1 REVISION='a b'"], env={"PORT": None, "REVISION": None})
    assert listed.output == "# \nPOST    /brew/{cup}  -\n# PORT=1 REVISION='a b'\nPOST    /brew/{cup}  -\n"
    refused = runner.invoke(line, ["serve"], env={"PROMETHEUS_MULTIPROC_DIR": "/dev/null/metrics"})
    assert (refused.exit_code, refused.output.startswith("tea-service: PROMETHEUS_MULTIPROC_DIR:")) == (1, True)
    assert served == []
    shown = runner.invoke(line, ["check-config"], env={"PORT": "7001", "TOKEN": "hunter2hunter2"})
    assert "7001" in shown.output
    assert "hunter2" not in shown.output
    assert runner.invoke(line, ["healthcheck"], env={"PORT": "9"}).exit_code == 1
