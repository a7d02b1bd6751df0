"""Operations for those who run the service: health, readiness, metrics, and its documents."""

import hashlib
import mimetypes
from functools import cache
from html import escape
from importlib.util import find_spec
from pathlib import Path

import msgspec
from flask import Flask, Response, request

from service_kit.http import problems
from service_kit.http.compression import compressed
from service_kit.http.messages import respond
from service_kit.http.openapi import Answers, document, documented
from service_kit.http.requests import service
from service_kit.service import NotReady
from service_kit.telemetry import metrics

DOCS_ASSETS = ("swagger_bundle.js", "swagger_style.css")
DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
DOCS_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>{title}</title>
  <link rel="icon" href="data:,">
  <link rel="stylesheet" href="/docs/swagger_style.css">
</head>
<body>
  <div id="docs"></div>
  <script src="/docs/swagger_bundle.js"></script>
  <script src="/docs/start.js"></script>
</body>
</html>
"""
PROBLEMS_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <title>{title}: problems</title>
</head>
<body>
<h1>{title}: problems</h1>
<p>Errors are problem details (RFC 9457). A program acts on <code>type</code> and on <code>errors</code>, which lists
every rule that a request breaks. <code>detail</code> is for people.</p>
<dl>
{entries}
</dl>
</body>
</html>
"""
DOCS_START = (
    'SwaggerUIBundle({ url: "/openapi.json", dom_id: "#docs", validatorUrl: null, persistAuthorization: false });\n'
)


class Health(msgspec.Struct, frozen=True):
    """That the service runs, and which version."""

    status: str
    version: str


class Readiness(msgspec.Struct, frozen=True):
    """That requests will be answered."""

    status: str


@documented(answers=Answers(ok=Health), public=True, tag="operations")
def health() -> Response:
    """Whether the service runs."""
    return respond(Health("healthy", service().version))


@documented(answers=Answers(ok=Health), public=True, tag="operations")
def livez() -> Response:
    """Whether this process answers; it looks at nothing else, so that a database's failure restarts nobody."""
    return respond(Health("alive", service().version))


@documented(answers=Answers(ok=Readiness, problems=(503,)), public=True, tag="operations")
def readyz() -> Response:
    """Whether requests should come here: what the service needs is there, and no shutdown has begun."""
    retry = {"Retry-After": str(problems.RETRY_SECONDS)}
    if service().draining():
        return problems.respond(problems.UNAVAILABLE, "draining: this process is about to end", retry)
    try:
        service().check()
    except NotReady as error:
        return problems.respond(problems.UNAVAILABLE, str(error), retry)
    return respond(Readiness("ready"))


@documented(answers=Answers(text=True, compressed=True), public=True, tag="operations")
def scrape() -> Response:
    """Metrics in Prometheus' text format, or OpenMetrics with exemplars where the scraper accepts it."""
    metrics.set_draining(service().package, service().draining())
    content, content_type = metrics.expose(request.headers.get("Accept", ""))
    return compressed(Response(content, content_type=content_type))


def openapi() -> Response:
    """The OpenAPI 3.1 document of this service."""
    return compressed(respond(document()), static=True)


def docs() -> Response:
    """A page to read the document with and try it; loads nothing from elsewhere."""
    return Response(
        DOCS_PAGE.format(title=escape(service().title)),
        content_type="text/html; charset=utf-8",
        headers={"Content-Security-Policy": DOCS_POLICY},
    )


@cache
def _asset(name: str) -> tuple[bytes, str]:
    """A file's content, which all responses share however slowly they are taken, and its digest."""
    package = find_spec("offapi")  # importing it would read all its scripts, 50 MB in memory
    if package is None or package.origin is None:
        raise ModuleNotFoundError("offapi is missing: install the service from its lock", name="offapi")
    content = Path(package.origin).with_name(name).read_bytes()
    return content, hashlib.sha256(content).hexdigest()


def docs_asset(name: str) -> Response:
    """A file of the page's."""
    if name == "start.js":
        return Response(DOCS_START, content_type="text/javascript; charset=utf-8")
    content, digest = _asset(name)
    response = Response(content, content_type=mimetypes.guess_type(name)[0])
    response.cache_control.public = True
    response.cache_control.max_age = 86400
    response.set_etag(digest)
    response.make_conditional(request)
    return compressed(response, static=True)


def problem_types() -> Response:
    """A page that explains each problem's `type` and what to do."""
    entries = "\n".join(
        f'<dt id="{kind.name}"><code>{kind.uri}</code>: {kind.status}, {escape(kind.title)}</dt>\n'
        f"<dd>{escape(kind.advice)}</dd>"
        for kind in sorted(problems.TYPES.values(), key=lambda kind: (kind.status, kind.name))
    )
    page = PROBLEMS_PAGE.format(title=escape(service().title), entries=entries)
    return compressed(Response(page, content_type="text/html; charset=utf-8"))


def register(app: Flask) -> None:
    """Add these routes to the application."""
    for name, view in (("health", health), ("livez", livez), ("readyz", readyz), ("metrics", scrape)):
        app.add_url_rule(f"/{name}", name, view, methods=["GET"])
    app.add_url_rule("/openapi.json", "openapi_document", openapi, methods=["GET"])
    app.add_url_rule(problems.PAGE, "problem_types", problem_types, methods=["GET"])
    app.add_url_rule("/docs", "openapi_docs", docs, methods=["GET"])
    app.add_url_rule(
        f"/docs/<any(start.js, {', '.join(DOCS_ASSETS)}):name>", "openapi_assets", docs_asset, methods=["GET"]
    )
