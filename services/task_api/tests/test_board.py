import gzip
import re
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from task_api.config import Rate
from task_api.http import board, cookies
from task_api.http.errors import NOT_THE_PAGE, TOKEN_PROBLEMS
from task_core.database import Database
from tooling.project import ROOT

from .conftest import KEY, PASSWORD, Client, Lend, Serve, log_in

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
OURS = {cookies.HEADER: cookies.PAGE, "Sec-Fetch-Site": "same-origin"}
EMAIL = "ada@example.org"
KIBIBYTES_60 = 60 * 1024


@pytest.mark.parametrize("accept", ["*/*", "application/json", "", "text/html;q=0, */*", "text/html;q=0.5, */*"])
def test_a_program_that_requests_the_root_gets_links_that_work(client: Client, accept: str) -> None:
    answer = client.get("/", headers={"Accept": accept})
    assert answer.content_type == "application/json"
    assert answer.json["title"] == "Task API"
    assert answer.json["links"]["tasks"] == "/tasks"
    assert "login" not in answer.json["links"]
    for path in answer.json["links"].values():
        assert client.get(path).status_code == 200


def test_with_accounts_the_links_lead_to_the_login_too(guarded: Client) -> None:
    assert guarded.get("/").json["links"]["login"] == "/auth/login"


def test_a_browser_gets_the_page_without_script_or_style_in_it(client: Client) -> None:
    answer = client.get("/", headers=BROWSER)
    assert answer.content_type == "text/html; charset=utf-8"
    assert {"Accept", "Accept-Language"} <= set(answer.headers["Vary"].split(", "))
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=|https?:", answer.text)
    assert "$" not in answer.text


def test_all_that_the_page_names_is_there_and_is_kept_by_browsers(client: Client) -> None:
    named = re.findall(r'(?:src|href)="(/board/[^"]+)"', client.get("/", headers=BROWSER).text)
    scripts = {path.name for path in board.FOLDER.glob("*.js")} - {board.WORKER}
    assert scripts <= {Path(path).name for path in named}
    for path in named:
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"


def test_every_module_is_imported_by_a_name_that_the_page_loads_ahead() -> None:
    for path in board.FOLDER.glob("*.js"):
        for name in re.findall(r'from "\./([^"]+)"', path.read_text()):
            assert name in board.files()


def test_the_page_and_all_its_files_take_at_most_60_kilobytes(client: Client) -> None:
    page = client.get("/", headers=BROWSER)
    named = set(re.findall(r'(?:src|href)="(/board/[^"]+)"', page.text)) | {"/board/worker.js"}
    sizes = [len(client.get(path, headers={"Accept-Encoding": "gzip"}).data) for path in named]
    assert len(page.data) + sum(sizes) <= KIBIBYTES_60


def test_files_are_compressed_for_those_who_accept_that(client: Client) -> None:
    path = f"/board/{board.digest()}/app.js"
    plain, packed = client.get(path), client.get(path, headers={"Accept-Encoding": "br, gzip"})
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed.headers["Vary"] == "Accept-Encoding"
    assert gzip.decompress(packed.data) == plain.data


def test_files_need_no_database_and_count_for_no_limit(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve(auth="on", jwt_keys=(KEY,), rate_limit=Rate(1, 1000))
    scripts = [name for name in board.files() if name.endswith(".js") and name != board.WORKER]
    unavailable = OperationalError("", None, Exception())
    for method in ("read", "write"):
        monkeypatch.setattr(Database, method, lambda _: (_ for _ in ()).throw(unavailable))
    paths = [f"/board/{board.WORKER}", *(f"/board/{board.digest()}/{name}" for name in scripts)]
    bad = {"Authorization": "Bearer x"}
    assert {client.get(path, headers=bad).status_code for path in paths} == {200}


def test_a_file_of_another_version_is_served_and_not_kept(client: Client) -> None:
    answer = client.get("/board/0123456789ab/app.js")
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")


@pytest.mark.parametrize("name", ["page.html", "worker.js", "..%2fconfig.py", "nothing.js"])
def test_nothing_else_is_served_as_a_file(client: Client, name: str) -> None:
    assert client.get(f"/board/{board.digest()}/{name}").status_code == 404


def test_the_service_worker_may_answer_for_the_whole_origin(client: Client) -> None:
    answer = client.get("/board/worker.js")
    assert answer.headers["Service-Worker-Allowed"] == "/"
    assert answer.content_type.startswith("text/javascript")


def test_the_page_knows_whether_there_are_accounts(client: Client, serve: Serve) -> None:
    assert 'data-accounts="off"' in client.get("/", headers=BROWSER).text
    for changes, registration in (
        ({}, "open"),
        ({"registration": "closed"}, "closed"),
        ({"smtp_url": "smtps://mail.example", "mail_from": "a@b.example"}, "mail"),
        ({"smtp_url": "smtps://mail.example", "mail_from": "a@b.example", "registration": "closed"}, "closed"),
    ):
        text = serve(auth="on", jwt_keys=(KEY,), **changes).get("/", headers=BROWSER).text
        assert f'data-accounts="on" data-registration="{registration}"' in text


def test_another_language_is_one_more_file(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert board.languages() == ["en"]
    more = {**board.files(), "texts.de.js": board.files()["texts.en.js"]}
    monkeypatch.setattr(board, "files", lambda: more)
    board.languages.cache_clear()
    board.page.cache_clear()
    try:
        german = client.get("/", headers={**BROWSER, "Accept-Language": "de-AT, de;q=0.9, en;q=0.5"})
        other = client.get("/", headers={**BROWSER, "Accept-Language": "fr"})
    finally:
        monkeypatch.undo()
        board.languages.cache_clear()
        board.page.cache_clear()
    assert '<html lang="de"' in german.text
    assert "/texts.de.js" in german.text
    assert "/texts.en.js" not in german.text
    assert '<html lang="en"' in other.text


def test_every_text_that_a_script_uses_is_in_the_catalogue() -> None:
    catalogue = (board.FOLDER / "texts.en.js").read_text()
    defined = set(re.findall(r"^  (\w+):", catalogue, re.MULTILINE))
    used = {
        name
        for path in board.FOLDER.glob("*.js")
        if not path.name.startswith("texts.")
        for name in re.findall(r"\btexts\.(\w+)", path.read_text())
    }
    assert used - {"js"} == defined


def signed_in(client: Client) -> list[str]:
    client.post("/auth/register", json={"email": EMAIL, "password": PASSWORD})
    answer = client.post("/session", json={"email": EMAIL, "password": PASSWORD}, headers=OURS)
    assert answer.status_code == 200
    assert answer.json["email"] == EMAIL
    return list(answer.headers.getlist("Set-Cookie"))


def test_no_token_is_within_reach_of_scripts_or_of_other_sites(guarded: Client) -> None:
    kept = signed_in(guarded)
    assert len(kept) == 3
    for cookie in kept:
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
    assert [cookie.startswith("task_api_access") for cookie in kept if "Path=/session" not in cookie] == [True]
    answer = guarded.get("/auth/me", headers=OURS)
    assert answer.status_code == 200


def test_over_https_the_cookies_are_never_sent_in_the_clear(guarded: Client) -> None:
    guarded.post("/auth/register", json={"email": EMAIL, "password": PASSWORD})
    secure = {"base_url": "https://localhost", "headers": OURS}
    answer = guarded.post("/session", json={"email": EMAIL, "password": PASSWORD}, **secure)
    made = answer.headers.getlist("Set-Cookie")
    for cookie in made:
        assert cookie.startswith("__Host-" if "Path=/;" in cookie + ";" else "__Secure-")
        assert "Secure;" in cookie
        assert "Domain=" not in cookie
    assert [cookie.split("=")[0] for cookie in made if cookie.startswith("__Host-")] == ["__Host-task_api_access"]
    assert guarded.get("/auth/me", **secure).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {cookies.HEADER: "XMLHttpRequest"},
        {**OURS, "Sec-Fetch-Site": "cross-site"},
        {**OURS, "Sec-Fetch-Site": "same-site"},
        {**OURS, "Sec-Fetch-Site": "none"},
        {**OURS, "Origin": "https://attacker.example"},
        {**OURS, "Origin": "http://localhost:8080"},
        {**OURS, "Origin": "null"},
    ],
)
def test_a_cookie_counts_only_where_the_page_sent_it(guarded: Client, headers: dict[str, str]) -> None:
    signed_in(guarded)
    task = {"title": "planted"}
    assert guarded.post("/tasks", json=task, headers=headers).status_code == 401
    for method, path in (("POST", "/session"), ("POST", "/session/refresh"), ("DELETE", "/session")):
        answer = guarded.open(path, method=method, json=task, headers=headers)
        assert (answer.status_code, answer.json["type"]) == (403, NOT_THE_PAGE.uri)
    assert guarded.get("/tasks", headers=OURS).json == []
    own = {**OURS, "Origin": "http://localhost"}
    assert guarded.post("/tasks", json=task, headers=own).status_code == 201


def test_a_cookie_counts_only_for_the_account_that_the_page_shows(guarded: Client) -> None:
    other = guarded.get("/auth/me", headers=log_in(guarded, "grace@example.org")).json["id"]
    signed_in(guarded)
    own = guarded.get("/auth/me", headers=OURS).json["id"]
    shown = {**OURS, cookies.ACCOUNT: str(other)}
    answer = guarded.post("/tasks", json={"title": "Of Grace"}, headers=shown)
    assert (answer.status_code, answer.json["type"]) == (401, TOKEN_PROBLEMS["invalid"].uri)
    assert guarded.get("/tasks", headers={**OURS, cookies.ACCOUNT: str(own)}).json == []


def test_a_cookie_counts_for_no_account_of_a_replaced_database_that_had_the_same_id(guarded: Client) -> None:
    signed_in(guarded)
    own = guarded.get("/auth/me", headers=OURS).json
    shown = {**OURS, cookies.ACCOUNT: str(own["id"])}
    answer = guarded.get("/tasks", headers={**shown, cookies.CREATED: "2026-01-01T00:00:00.000000Z"})
    assert (answer.status_code, answer.json["type"]) == (401, TOKEN_PROBLEMS["invalid"].uri)
    assert guarded.get("/tasks", headers={**shown, cookies.CREATED: own["created_at"]}).json == []


def test_a_session_is_renewed_only_for_the_account_that_the_page_shows(guarded: Client) -> None:
    signed_in(guarded)
    own = guarded.get("/auth/me", headers=OURS).json["id"]
    answer = guarded.post("/session/refresh", headers={**OURS, cookies.ACCOUNT: str(own + 1)})
    assert (answer.status_code, answer.json["type"]) == (401, TOKEN_PROBLEMS["invalid"].uri)
    assert answer.headers.getlist("Set-Cookie") == []
    unspent = guarded.post("/session/refresh", headers={**OURS, cookies.ACCOUNT: str(own)})
    assert unspent.status_code == 204


def test_an_authorization_header_goes_before_a_cookie(guarded: Client) -> None:
    other = log_in(guarded, "grace@example.org")
    signed_in(guarded)
    assert guarded.get("/auth/me", headers={**OURS, **other}).json["email"] == "grace@example.org"
    assert guarded.get("/auth/me", headers={**OURS, "Authorization": "Bearer no"}).status_code == 401


def test_refreshing_replaces_the_tokens_and_one_that_is_not_valid_deletes_the_cookies(guarded: Client) -> None:
    signed_in(guarded)
    answer = guarded.post("/session/refresh", headers=OURS)
    assert (answer.status_code, len(answer.headers.getlist("Set-Cookie"))) == (204, 3)
    assert guarded.get("/auth/me", headers=OURS).status_code == 200
    guarded.delete("/auth/sessions", headers=OURS)
    ended = guarded.post("/session/refresh", headers=OURS)
    assert ended.status_code == 401
    assert all("Max-Age=0" in cookie for cookie in ended.headers.getlist("Set-Cookie"))
    assert guarded.post("/session/refresh", headers=OURS).json["type"].endswith("token-invalid")


def test_with_a_token_that_has_ended_one_can_sign_in_again(guarded: Client) -> None:
    signed_in(guarded)
    guarded.delete("/auth/sessions", headers=OURS)
    assert guarded.get("/auth/me", headers=OURS).status_code == 401
    signed_in(guarded)
    assert guarded.get("/auth/me", headers=OURS).status_code == 200


@pytest.mark.parametrize("expired", [False, True])
def test_signing_out_ends_the_session_also_where_the_access_token_has_expired(lend: Lend, expired: bool) -> None:
    page, program = lend(auth="on", jwt_keys=(KEY,)), lend(auth="on", jwt_keys=(KEY,))
    bearer = log_in(program, EMAIL)
    signed_in(page)
    assert len(program.get("/auth/sessions", headers=bearer).json) == 2
    if expired:
        page.delete_cookie(cookies.ACCESS)
    answer = page.delete("/session", headers=OURS)
    assert answer.status_code == 204
    assert all("Max-Age=0" in cookie for cookie in answer.headers.getlist("Set-Cookie"))
    assert len(program.get("/auth/sessions", headers=bearer).json) == 1


def test_without_accounts_there_is_no_session(client: Client) -> None:
    assert client.post("/session", json={}, headers=OURS).status_code == 404


def test_the_wheel_and_the_image_have_the_files() -> None:
    source = ROOT / "services/task_api"
    assert board.FOLDER.is_relative_to(source / "src")
    assert "!services/task_api/src\n" in (source / "Dockerfile.dockerignore").read_text()
