"""The page at /, where people use their tasks, and its files. A program that requests / gets an index of links."""

import hashlib
import mimetypes
from functools import cache
from pathlib import Path
from string import Template
from typing import NamedTuple

import msgspec
from flask import Blueprint, Response, current_app, request, url_for

from service_kit.http.compression import compressed
from service_kit.http.messages import prefers, respond
from service_kit.http.openapi import Answers, documented
from task_api.http.context import services

blueprint = Blueprint("board", __name__)
FOLDER = Path(__file__).parents[1] / "board"
PAGE = "page.html"
WORKER = "worker.js"
"""The service worker: it may answer for the whole origin, so its address is always the same."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; manifest-src 'self';"
    " worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
    " require-trusted-types-for 'script'; trusted-types board"
)
DEFAULT_LANGUAGE = "en"
TYPES = {".js": "text/javascript", ".webmanifest": "application/manifest+json"}
INDEX = {
    "tasks": "tasks.list_tasks",
    "labels": "labels.list_labels",
    "login": "auth.login",
    "account": "auth.me",
    "openapi": "openapi_document",
    "documentation": "openapi_docs",
    "problems": "problem_types",
    "health": "health",
}
"""The links of the index, by the endpoints that they lead to."""


class Index(msgspec.Struct, frozen=True):
    """What the service is, and where its resources are."""

    title: str
    version: str
    links: dict[str, str]


class File(NamedTuple):
    """A file of the page."""

    content: bytes
    content_type: str


@cache
def files() -> dict[str, File]:
    """Return the page's files, all of them text, by their names."""
    contents = {}
    for path in sorted(FOLDER.iterdir()):
        content = path.read_bytes()
        kind = TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        contents[path.name] = File(content, f"{kind}; charset=utf-8")
    return contents


@cache
def digest() -> str:
    """Return what changes with any of the page's files: their address has it, so that browsers keep them for good."""
    return hashlib.sha256(b"".join(file.content for file in files().values())).hexdigest()[:12]


@cache
def languages() -> list[str]:
    """Return the languages that have a catalogue: `texts.en.js` is English's."""
    return sorted(name.split(".")[1] for name in files() if name.startswith("texts.") and name.count(".") > 1)


@cache
def page(language: str, accounts: str, registration: str) -> str:
    """Return the page; it loads all its scripts at once, before any of them runs."""
    folder = f"/board/{digest()}"
    scripts = [name for name in files() if name.endswith(".js") and name != WORKER]
    wanted = [name for name in scripts if name.count(".") == 1 or name == f"texts.{language}.js"]
    preload = "\n".join(f'  <link rel="modulepreload" href="{folder}/{name}">' for name in wanted)
    values = {"language": language, "accounts": accounts, "registration": registration}
    return Template(files()[PAGE].content.decode()).substitute(values, folder=folder, preload=preload)


@blueprint.get("/")
@documented(answers=Answers(ok=Index), public=True)
def index() -> Response:
    """Return links to the service's resources. A browser, which accepts text/html, gets the page for people."""
    about = services()
    if prefers("text/html"):
        response = _page()
    else:
        known = current_app.view_functions
        links = {name: url_for(endpoint) for name, endpoint in INDEX.items() if endpoint in known}
        response = respond(Index(about.title, about.version, links))
    response.headers["Vary"] = "Accept, Accept-Language"
    return response


def _page() -> Response:
    settings = services().settings
    by_mail = settings.smtp_url and settings.registration != "closed"
    registration = "mail" if by_mail else settings.registration
    language = request.accept_languages.best_match(languages(), DEFAULT_LANGUAGE)
    return Response(
        page(language, settings.auth, registration),
        content_type="text/html; charset=utf-8",
        headers={
            "Content-Security-Policy": POLICY,
            "Content-Language": language,
            "Cross-Origin-Opener-Policy": "same-origin",
        },
    )


@blueprint.get("/board/<string:version>/<string:name>")
def board_file(version: str, name: str) -> Response:
    """Return a file of the page. One of another version is not to be kept: replicas of two versions may answer."""
    file = files().get(name)
    if file is None or name in {PAGE, WORKER}:
        current_app.aborter(404)
    response = _file(name)
    if version == digest():
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
    return compressed(response, static=True)


@blueprint.get("/board/worker.js")
def board_worker() -> Response:
    """Return the service worker, by which the page opens without a connection."""
    response = _file(WORKER)
    response.headers["Service-Worker-Allowed"] = "/"
    response.headers["Content-Security-Policy"] = "default-src 'none'; connect-src 'self'; frame-ancestors 'none'"
    response.headers["Cache-Control"] = "private, no-cache"
    return compressed(response, static=True)


def _file(name: str) -> Response:
    return Response(files()[name].content, content_type=files()[name].content_type)
