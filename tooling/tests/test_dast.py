"""The attack's own rules: who is due what, which input a schema takes, and how each tool's report is read."""

import json
import sys
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from task_api.config import Settings
from task_api.http.app import create_app
from task_api.http.context import Services
from task_core.config import SecretKey
from task_core.database import Database
from tooling.dast import headers, log, raw_http, schemathesis, source, wapiti
from tooling.dast.authorization import CALLERS, WORTHLESS, due
from tooling.dast.isolation import Values, shape
from tooling.dast.routes import accepted, choices
from tooling.dast.samples import NoSampleError, Sampler, constant, value_at
from tooling.dast.target import Account, Operation, Target
from tooling.findings import NotAssessed, Severity
from tooling.schemathesis_hooks import whole
from tooling.service import ServiceError, environment, free_port, listening, running


def target_of(document: Mapping[str, Any], **more: Any) -> Target:
    """A target whose document is known, and which nobody can reach."""
    target = Target("http://127.0.0.1:9", **more)
    vars(target)["document"] = document
    return target


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """The service's own document, with accounts on."""
    settings = Settings(auth="on", rate_limit=None, jwt_keys=(SecretKey("k", "nF7wqz0TzY5cVxk2L9bR4mJ8sH1dGpQe"),))
    app = create_app(Services(settings, Database(settings)))
    return dict(app.test_client().get("/openapi.json").get_json())


def operation(roles: frozenset[str] | None = frozenset()) -> Operation:
    return Operation("GET", "/things/{thing_id}", {}, roles)


def test_everybody_is_let_in_where_the_document_asks_for_nothing() -> None:
    assert {due(operation(None), caller, "", owned=True) for caller in CALLERS} == {"2xx"}


def test_a_worthless_token_is_401_wherever_a_login_is_asked_for() -> None:
    assert {due(operation(), caller, "", owned=owned) for caller in WORTHLESS for owned in (True, False)} == {"401"}


def test_anothers_object_is_404_and_ones_own_things_are_shown() -> None:
    assert due(operation(), "other", "user", owned=True) == "404"
    assert due(operation(), "other", "user", owned=False) == "2xx"
    assert due(operation(), "owner", "user", owned=True) == due(operation(), "admin", "admin", owned=True) == "2xx"


def test_a_role_that_the_document_asks_for_keeps_the_others_out() -> None:
    admins = operation(frozenset({"admin"}))
    assert due(admins, "owner", "user", owned=True) == "403"
    assert due(admins, "admin", "admin", owned=True) == "2xx"


@pytest.mark.parametrize(
    ("security", "roles"),
    [
        (None, frozenset()),
        ([], None),
        ([{}, {"bearer": []}], None),
        ([{"bearer": []}], frozenset()),
        ([{"bearer": ["admin"]}, {"bearer": ["auditor"]}], frozenset({"admin", "auditor"})),
    ],
)
def test_roles_are_what_the_security_declarations_say(security: Any, roles: frozenset[str] | None) -> None:
    declared = {"responses": {}} | ({} if security is None else {"security": security})
    target = target_of({"security": [{"bearer": []}], "paths": {"/things": {"get": declared}}})
    assert [operation.roles for operation in target.operations] == [roles]


def test_a_document_without_operations_is_not_assessed() -> None:
    with pytest.raises(NotAssessed, match="no operation"):
        _ = target_of({"paths": {}}).operations


def test_an_unreachable_target_is_not_assessed() -> None:
    with pytest.raises(NotAssessed, match="cannot be reached"):
        _ = Target(f"http://127.0.0.1:{free_port()}").operations


def test_a_login_is_sent_again_as_long_as_the_service_is_overloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = httpx.Response(429, headers={"Retry-After": "0"})
    answers = [refused, refused, httpx.Response(200, json={"access_token": "a"})]
    target = Target("http://127.0.0.1:9")
    vars(target)["client"] = httpx.Client(
        base_url=target.url, transport=httpx.MockTransport(lambda _: answers.pop(0) if answers else refused)
    )
    assert target.tokens(Account("a@example.com")) == {"access_token": "a"}
    monkeypatch.setattr("tooling.dast.target.PATIENCE", 0)
    with pytest.raises(NotAssessed, match="cannot log in: 429"):
        target.tokens(Account("a@example.com"))


def test_a_request_is_named_by_its_operation() -> None:
    target = target_of({"paths": {"/things/{id}": {}, "/things/bulk": {}}})
    assert target.place("GET", "/things/12") == "GET /things/{id}"
    assert target.place("POST", "/things/bulk") == "POST /things/bulk"
    assert target.place("GET", "/else") == "GET /else"


def test_every_body_sampled_for_the_service_is_one_that_its_schema_takes(document: dict[str, Any]) -> None:
    count = 0
    for operation in target_of(document).operations:
        sampler = Sampler(document, {"id": 7, "email": "a@example.com", "password": "correct horse 7"})
        for media in operation.declared.get("requestBody", {}).get("content", {}).values():
            validator = jsonschema.Draft202012Validator({**media["schema"], "components": document["components"]})
            for body in [*sampler.alternatives(media["schema"]), sampler.full(media["schema"])]:
                validator.validate(body)
                count += 1
    assert count >= 9


def test_every_member_of_a_body_is_in_a_variant_alone_and_with_all_others(document: dict[str, Any]) -> None:
    schema = document["components"]["schemas"]["NewTask"]
    variants = Values(document, {}, ids=(7,), account=8).variants(schema)
    for name in schema["properties"]:
        assert {"title", name} in [set(variant) for variant in variants]
    assert set(variants[-1]) == set(schema["properties"])
    assert {variant["status"] for variant in variants if "status" in variant} == {"pending", "in_progress", "completed"}
    assert variants[-1]["owner_id"] == 8


def test_variants_of_a_bulk_request_name_an_object_with_and_without_each_optional_member(
    document: dict[str, Any],
) -> None:
    schema = document["components"]["schemas"]["Bulk"]
    variants = Values(document, {}, ids=(7, 9)).variants(schema)
    operations = [operation for variant in variants for operation in variant["operations"]]
    assert {"op": "update", "id": 7, "changes": {}, "version": 1} in operations
    assert {"op": "update", "id": 7, "changes": {}} in operations
    assert {"op": "delete", "id": 9} in operations


def test_a_response_that_lacks_what_a_link_names_is_no_sample() -> None:
    assert value_at([{"id": 4}], "$response.body#/0/id") == 4
    bodies: tuple[Any, ...] = ([], [{}], None, [4])
    for body in bodies:
        with pytest.raises(NoSampleError, match="nothing at"):
            value_at(body, "$response.body#/0/id")


def test_two_accounts_see_alike_all_but_texts_and_ids() -> None:
    mine = {"id": 4, "title": "a", "total": 2, "done": False, "due_at": None, "parts": [{"owner_id": 3}]}
    theirs = {"id": 5, "title": "b", "total": 2, "done": False, "due_at": None, "parts": [{"owner_id": 8}]}
    assert shape(mine) == shape(theirs)
    changes: list[dict[str, Any]] = [{"total": 3}, {"done": True}, {"due_at": "2030"}, {"parts": []}, {"more": 1}]
    for changed in changes:
        assert shape(mine) != shape({**theirs, **changed})


def test_the_source_tells_which_headers_and_parameters_it_looks_for(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "h = request.headers\n"
        "h2 = h.get('not-a-mapping-we-know'), request.headers.get('x-one'), here.headers['Two'], 'three' in headers\n"
        "NAME = 'X-Four'; environ.get('HTTP_X_FIVE'); request.args.get('six'); request.args.getlist('seven')\n"
        "os.environ.get('EIGHT'), os.getenv('NINE'), os.environ['TEN'], environ['SERVER_NAME']\n"
        "text = 'Well-known words', 'no header'; path == '/eleven/twelve'\n"
    )
    names = source.names([tmp_path])
    assert names.headers == {"x-one", "Two", "three", "X-Four", "X-Five"}
    assert names.parameters == {"six", "seven"}
    assert names.variables == {"EIGHT", "NINE", "TEN"}
    assert names.paths == {"/eleven/twelve"}


def test_settings_are_changed_to_each_choice_and_to_the_ends_of_their_range() -> None:
    fields = {field.name: field for field in msgspec.structs.fields(Settings)}
    assert list(choices(fields["log_level"])) == ["debug", "info", "warning", "error"]
    assert list(choices(fields["workers"])) == ["1", "64"]
    base = {"AUTH": "on", "JWT_KEYS": "k:nF7wqz0TzY5cVxk2L9bR4mJ8sH1dGpQe"}
    assert accepted(Settings, base, "WORKERS", "none") is None
    mail = accepted(Settings, base, "SMTP_URL", "smtp://127.0.0.1:9")
    assert mail == {**base, "SMTP_URL": "smtp://127.0.0.1:9", "MAIL_FROM": "somebody@example.com"}


def test_each_alternative_of_a_body_is_tried(document: dict[str, Any]) -> None:
    schema = document["paths"]["/tasks/bulk"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    tried = [body["operations"][0]["op"] for body in Sampler(document, {"id": 7}).alternatives(schema)]
    assert sorted(tried) == ["create", "delete", "update"]


schemas = st.recursive(
    st.sampled_from(
        [
            {"type": "string", "minLength": 9},
            {"type": "string", "maxLength": 3},
            {"type": "string", "format": "date-time"},
            {"type": "integer", "minimum": 4},
            {"type": "boolean"},
            {"type": "null"},
            {"enum": ["a", "b"]},
            {"const": None},
        ]
    ),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(lambda some: {"anyOf": some})
        | inner.map(lambda one: {"type": "array", "items": one, "minItems": 1})
        | st.dictionaries(st.sampled_from("abc"), inner).map(
            lambda some: {"type": "object", "properties": some, "required": sorted(some)}
        )
    ),
    max_leaves=8,
)


@given(schemas)
def test_a_sample_is_valid_whatever_the_schema(schema: dict[str, Any]) -> None:
    samples = Sampler({}, {}).alternatives(schema)
    assert samples
    for sample in samples:
        jsonschema.Draft202012Validator(schema).validate(sample)


@given(schemas)
def test_a_full_sample_is_valid_whatever_the_schema(schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(schema).validate(Sampler({}, {}).full(schema))


def test_a_full_sample_has_no_more_members_than_may_be_together() -> None:
    either = {"type": "object", "properties": {"at": {"type": "boolean"}, "before": {"type": "boolean"}}}
    schema = {"$ref": "#/either", "maxProperties": 1}
    assert Sampler({"either": either}, {}).full(schema) == {"at": False}
    assert Sampler({"either": either}, {}).full({"$ref": "#/either"}) == {"at": False, "before": False}


def test_a_full_sample_has_all_that_a_client_may_write(document: dict[str, Any]) -> None:
    new = {"$ref": "#/components/schemas/NewTask"}
    full = Sampler(document, {"title": "given"}).full(new)
    assert set(full) == {
        "title",
        "description",
        "status",
        "priority",
        "due_at",
        "project",
        "labels",
        "recurrence",
        "time_zone",
        "reminders",
    }
    assert full["title"] == "given"
    assert (
        full["recurrence"]
        in document["components"]["schemas"]["NewTask"]["properties"]["recurrence"]["anyOf"][0]["examples"]
    )


def test_a_constant_schema_gives_its_value_in_every_place() -> None:
    assert constant({"text": "a", "many": [{"number": 1, "yes": True}]}) == {
        "type": "object",
        "properties": {
            "text": {"type": "string", "default": "a"},
            "many": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "number": {"type": "integer", "default": 1},
                        "yes": {"type": "boolean", "default": True},
                    },
                },
            },
        },
    }


def test_a_schema_that_is_not_understood_says_so() -> None:
    with pytest.raises(NoSampleError, match="no value is known"):
        Sampler({}, {}).alternatives({"type": "unheard-of"})


def test_a_personal_token_may_do_what_its_scopes_say() -> None:
    reading = Operation("GET", "/things", {}, frozenset(), frozenset({"things:read"}))
    assert due(reading, "owner with things:read", "", owned=True) == "2xx"
    assert due(reading, "owner with things:write", "", owned=True) == "403"
    assert due(operation(), "owner with things:read", "", owned=False) == "403"
    assert due(operation(None), "owner with things:read", "", owned=False) == "2xx"


def test_what_is_personal_is_404_to_an_administrator_too() -> None:
    personal = Operation("DELETE", "/things/{thing_id}", {"x-personal": True}, frozenset())
    assert due(personal, "admin", "admin", owned=True) == due(personal, "other", "user", owned=True) == "404"
    assert due(personal, "owner", "user", owned=True) == "2xx"


def test_an_expression_of_a_link_finds_its_value() -> None:
    assert value_at([{"id": 5}], "$response.body#/0/id") == 5


def test_an_operation_is_about_what_a_link_or_its_path_says(document: dict[str, Any]) -> None:
    target = target_of(document)
    makers = {
        operation.label: maker and maker.label
        for operation in target.operations
        for maker, _ in [target.maker(operation)]
    }
    assert makers["PUT /tasks/{task_id}"] == makers["POST /tasks/bulk"] == makers["GET /tasks"] == "POST /tasks"
    assert makers["GET /auth/me"] is None
    assert makers["DELETE /auth/sessions/{session_id}"] == "GET /auth/sessions"
    assert makers["DELETE /auth/tokens/{token_id}"] == "POST /auth/tokens"
    assert makers["PATCH /admin/accounts/{account_id}"] == "POST /auth/register"


GOOD = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        ({}, []),
        ({"X-Frame-Options": "ALLOWALL"}, ["x-frame-options"]),
        ({"Cache-Control": "public, max-age=60"}, ["cache-control"]),
        ({"Server": "gunicorn/23.0.0"}, ["version-disclosure"]),
        ({"Access-Control-Allow-Origin": "*"}, ["foreign-origin"]),
    ],
)
def test_a_header_that_is_not_as_it_must_be_is_named(change: dict[str, str], rules: list[str]) -> None:
    assert [rule for rule, _ in headers.faults("/tasks", httpx.Response(200, headers=GOOD | change))] == rules


@pytest.mark.parametrize("name", GOOD)
def test_a_missing_header_is_named(name: str) -> None:
    answer = httpx.Response(200, headers={key: value for key, value in GOOD.items() if key != name})
    assert [rule for rule, _ in headers.faults("/tasks", answer)] == [name.lower()]


PATHS = {"security": [{"bearer": []}], "paths": {"/things/{id}": {"get": {"responses": {}}}}}


def wapiti_report(folder: Path, pages: list[tuple[str, int]], **more: Any) -> Path:
    crawled = [{"request": {"method": "GET", "url": url}, "response": {"status_code": status}} for url, status in pages]
    infos = {"version": "Wapiti 3.2.3", "crawled_pages": crawled}
    output = folder / "report.json"
    output.write_bytes(msgspec.json.encode({"infos": infos, "vulnerabilities": {}, "anomalies": {}} | more))
    return output


def test_wapitis_findings_are_named_by_operation(tmp_path: Path) -> None:
    entry = {"method": "GET", "path": "/things/1", "info": "injected", "level": 4, "parameter": "q"}
    output = wapiti_report(tmp_path, [("http://h/things/1", 200)], vulnerabilities={"SQL Injection": [entry]})
    scan = wapiti.read(target_of(PATHS), output)
    (finding,) = scan.findings
    assert (finding.rule, finding.path, finding.severity) == ("SQL Injection", "GET /things/{id}", Severity.CRITICAL)
    assert (scan.version, scan.targets) == ("3.2.3", ("GET /things/{id}: 200",))


@pytest.mark.parametrize(
    ("pages", "problem"),
    [
        ([], "crawled no page"),
        ([("http://h/things/1", 401)], "token was not accepted"),
        ([("http://h/things/1", 200), ("http://h/open", 400)], "attacks reach nothing: GET /open: 400"),
    ],
)
def test_wapiti_that_saw_nothing_is_not_assessed(tmp_path: Path, pages: list[tuple[str, int]], problem: str) -> None:
    everybodys: dict[str, Any] = {"get": {"responses": {}, "security": []}}
    document = {
        "security": [{"bearer": []}],
        "paths": {"/things/{id}": {"get": {"responses": {}}}, "/open": everybodys},
    }
    with pytest.raises(NotAssessed, match=problem):
        wapiti.read(target_of(document), wapiti_report(tmp_path, pages))


def events(*cases: str, failure: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Events as Schemathesis writes them, of one scenario."""
    check = {"name": "not_a_server_error", "status": "failure", "failure_info": {"failure": failure}}
    checks = {cases[0]: [check]} if failure else {}
    recorder = {
        "cases": {case: {"value": {"method": case.split()[0], "path": case.split()[1]}} for case in cases},
        "checks": checks,
        "interactions": {},
    }
    return [
        {"Initialize": {"schemathesis_version": "4"}},
        {"ScenarioFinished": {"recorder": recorder}},
        {"EngineFinished": {}},
    ]


def test_schemathesis_failures_are_findings() -> None:
    failure = {"title": "Server error", "message": "", "severity": "critical", "operation": "GET /things/{id}"}
    (finding,) = schemathesis.read(target_of(PATHS), events("GET /things/{id}", failure=failure)).findings
    assert (finding.rule, finding.path) == ("not_a_server_error", "GET /things/{id}")
    assert finding.severity is Severity.CRITICAL


def test_a_scenario_that_schemathesis_skipped_counts_for_nothing() -> None:
    skipped = {"ScenarioFinished": {"status": "skip", "recorder": {"label": "Stateful tests"}}}
    assert schemathesis.read(target_of(PATHS), [*events("GET /things/{id}"), skipped]).findings == ()


def test_schemathesis_that_left_an_operation_out_is_not_assessed() -> None:
    with pytest.raises(NotAssessed, match=r"never sent GET /things/\{id\}"):
        schemathesis.read(target_of(PATHS), events("GET /else"))


def test_schemathesis_that_broke_is_not_assessed() -> None:
    fatal: list[dict[str, Any]] = [{"FatalError": {"message": "x"}}, {"EngineFinished": {}}]
    for broken in (events("GET /things/{id}")[:-1], fatal):
        with pytest.raises(NotAssessed, match="schemathesis"):
            schemathesis.read(target_of(PATHS), broken)


@given(st.recursive(st.integers() | st.text() | st.none(), st.lists))
def test_whole_numbers_are_written_whole(value: Any) -> None:
    floated = json.loads(json.dumps(value), parse_int=lambda digits: float(digits) if len(digits) < 15 else int(digits))
    assert json.dumps(whole(floated)) == json.dumps(value).replace("-0", "0") or whole(floated) == value
    assert whole(0.5) == 0.5


def test_a_service_that_documents_neither_429_nor_503_is_not_strained() -> None:
    assert list(headers.strained(target_of(PATHS))) == []


@pytest.mark.parametrize(
    ("line", "rules"),
    [
        ('{"message": "request", "method": "GET", "route": "/tasks", "status": 200}', []),
        ('{"message": "request", "method": "GET", "route": "/tasks", "status": 503}', ["server-error"]),
        ('{"message": "unexpected error", "exception": "KeyError"}', ["unexpected-error"]),
        ("plain words", ["broken-line"]),
        ('["not", "an", "object"]', ["broken-line"]),
        ('{"message": "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.x"}', ["secret-in-log"]),
        ('{"message": "login", "key": "the-signing-key"}', ["secret-in-log"]),
        ('{"message": "refresh of a-token-that-was-sent: in time"}', ["secret-in-log"]),
        ('{"message": "in time: a-token-that-was-sent."}', ["secret-in-log"]),
        ('{"message": "not a secret: a-token-that-was-not-sent"}', []),
    ],
)
def test_the_log_tells_of_errors_and_secrets(tmp_path: Path, line: str, rules: list[str]) -> None:
    (tmp_path / "log").write_text(line + "\n")
    sent = {"a-token-that-was-sent"}
    scan = log.scan(target_of(PATHS, key="the-signing-key", secrets=sent, log=tmp_path / "log"))
    assert [finding.rule for finding in scan.findings] == rules


def test_a_setting_of_the_callers_does_not_reach_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://production/tasks")
    assert environment({"PORT": "1"})["PORT"] == "1"
    assert "DATABASE_URL" not in environment({})


def test_the_service_runs_for_as_long_as_the_block(tmp_path: Path) -> None:
    with running({}, workers=1, log=tmp_path / "log") as url:
        assert httpx.get(f"{url}/readyz").status_code == 200
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/readyz")
    assert "listening" in (tmp_path / "log").read_text().lower()


def test_a_service_that_ends_before_it_is_ready_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('no room left'); raise SystemExit(3)"]
    url = f"http://127.0.0.1:{free_port()}"
    with (
        pytest.raises(ServiceError, match=r"(?s)ended with status 3.*no room left"),
        listening(command, {}, ready=url, log=tmp_path / "log"),
    ):
        pytest.fail("it was not ready")


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n"


@pytest.mark.parametrize(
    ("answer", "rules"),
    [
        (b"", []),
        (OK + OK, []),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, []),
        (b"HTTP/1.1 204 No Content\r\n\r\n" + BUSY + b"\r\n", ["server-error"]),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + OK, []),  # the first to a HEAD
        (BUSY + b"Retry-After: 2\r\n\r\n", []),
        (b"HTTP/1.1 501 Not Implemented\r\n\r\n", []),
        (BUSY + b"\r\n", ["server-error"]),
        (OK + b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n", ["server-error"]),
        (OK + b"left over", ["broken-answer"]),
        (b"Traceback", ["broken-answer"]),
        (OK.replace(b"ok", b"s3"), ["secret-in-answer"]),
        (None, ["no-end"]),
    ],
)
def test_what_is_answered_to_hostile_bytes_is_judged(answer: bytes | None, rules: list[str]) -> None:
    assert [rule for rule, _ in raw_http.faults(answer, [b"s3"])] == rules


def test_hostile_inputs_are_the_same_for_the_same_seed() -> None:
    target = Target("http://127.0.0.1:9")
    vars(target)["document"] = {"openapi": "3.1.0", "paths": {"/a/{id}": {"get": {"responses": {}, "security": []}}}}

    def some(seed: int) -> list[bytes]:
        return [data for _, data in islice(raw_http.Attacker(target, seed).inputs(), 50)]

    assert some(1) == some(1) != some(2)
