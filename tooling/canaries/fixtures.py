"""What stands in for databases that a canary must control. Each is named as a fixture wherever it shows."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tooling.findings import Database
from tooling.images.provenance import MANIFEST_TYPE


def plant(folder: Path, name: str, content: str) -> str:
    """Write a file into the canary's folder and return its name."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return name


PLANTED_ADVISORIES = Database("planted advisories", datetime.now(UTC), fixture=True)


@contextmanager
def answering(answers: dict[str, Any], *, status: int = 200) -> Iterator[str]:
    """Serve JSON on a free loopback port and yield its base URL.

    `answers` maps the package of an OSV query, or a path, to the response.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.reply(answers.get(query.get("package", {}).get("name", self.path), {}))

        def do_GET(self) -> None:
            self.reply(answers.get(self.path.partition("?")[0], {}))

        def reply(self, answer: Any) -> None:
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the parent's name for it
            pass

    with serving(Handler) as address:
        yield f"http://{address}"


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve on a free loopback port; yield its address, `127.0.0.1:port`."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@contextmanager
def oci_registry(image: str = "") -> Iterator[str]:
    """Keep blobs and manifests in memory as an OCI registry does; yield its address.

    Each of its repositories has an image with the digest `image`. It lacks the API for referrers, as many do.
    """
    kept: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.reply(202, Location=self.path)

        def do_PUT(self) -> None:
            path, _, query = self.path.partition("?")
            content = self.rfile.read(int(self.headers["Content-Length"]))
            digest = query.partition("digest=")[2].replace("%3A", ":")
            kept[path.replace("uploads/", digest)] = content
            self.reply(201, Location=path)

        def do_GET(self) -> None:
            found = kept.get(self.path, b"{}" if image and self.path.endswith(f"/manifests/{image}") else None)
            self.reply(404 if found is None else 200, found or b"")

        do_HEAD = do_GET  # noqa: N815 - http.server's name

        def reply(self, status: int, content: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Type": MANIFEST_TYPE, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the parent's name for it
            pass

    with serving(Handler) as address:
        yield address


FLASK_0_12 = {
    "vulns": [
        {
            "id": "GHSA-562c-5r94-xh97",
            "aliases": ["CVE-2018-1000656"],
            "modified": "2024-01-01T00:00:00Z",
            "published": "2018-08-23T00:00:00Z",
            "summary": "Flask is vulnerable to denial of service by crafted JSON",
            "affected": [
                {
                    "package": {"name": "flask", "ecosystem": "PyPI"},
                    "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "0.12.3"}]}],
                    "versions": ["0.12"],
                }
            ],
        }
    ]
}

# What Safety's servers answer on the way to its database, which holds one planted vulnerability.
SAFETY_META = {
    "advisory": "planted",
    "timestamp": 1,
    "last_updated": "2026-01-01 00:00:00",
    "base_domain": "https://data.safetycli.com",
    "schema_version": "2.0.0",
    "attribution": "planted",
}
SAFETY_DATABASE = {
    "/platform/initialize": {"organization": "planted", "plan": {"name": "planted"}, "email": "canary@example.com"},
    "/data/insecure.json": {"meta": SAFETY_META, "vulnerable_packages": {"flask": ["<0.12.3"]}},
    "/data/insecure_full.json": {
        "meta": SAFETY_META | {"packages": {}},
        "vulnerable_packages": {
            "flask": [
                {
                    "id": "36388",
                    "ids": [{"type": "pyup", "id": "pyup.io-36388"}, {"type": "cve", "id": "CVE-2018-1000656"}],
                    "specs": ["<0.12.3"],
                    "advisory": "Flask before 0.12.3: denial of service by crafted JSON",
                    "transitive": False,
                    "more_info_path": "/v/36388/97c",
                }
            ]
        },
    },
}


@contextmanager
def safety_servers() -> Iterator[dict[str, str]]:
    """Run a server of Safety's database; yield the environment variables that make Safety use it."""
    answers: dict[str, Any] = dict(SAFETY_DATABASE)
    with answering(answers) as url:
        answers["/.well-known/openid-configuration"] = {"jwks_uri": f"{url}/keys"}
        answers["/keys"] = {"keys": []}
        yield {
            "SAFETY_AUTH_SERVER_URL": url,
            "SAFETY_PLATFORM_API_BASE_URL": f"{url}/platform",
            "SAFETY_DATA_API_BASE_URL": f"{url}/data/",
        }
