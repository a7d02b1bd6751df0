"""Receive Alertmanager's webhooks and report each alert: on a laptop as one JSON line, in the drills into a list.

`python receiver.py HOST PORT` prints; the path of a request is the receiver's name. It imports the standard library
alone, so that any Python image can run it.
"""

import json
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Receiver(ThreadingHTTPServer):
    """Listens on `host` and `port` (0 takes a free one) and calls `report` with each alert."""

    def __init__(self, host: str, port: int, report: Callable[[dict[str, str]], object]) -> None:
        super().__init__((host, port), Webhook)
        self.report = report


class Webhook(BaseHTTPRequestHandler):
    """Alertmanager's webhook (version 4), and GET for health checks."""

    server: Receiver

    def do_POST(self) -> None:
        """Report each alert of a group."""
        group = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        for alert in group["alerts"]:
            about = {"receiver": self.path.strip("/"), "status": alert["status"], "since": alert["startsAt"]}
            self.server.report({**about, **alert["labels"], **alert["annotations"]})
        self.do_GET()

    def do_GET(self) -> None:
        """Respond 200."""
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Log nothing: standard output is for the alerts."""


if __name__ == "__main__":
    host, port = sys.argv[1:]
    with Receiver(host, int(port), lambda alert: print(json.dumps(alert), flush=True)) as receiver:
        receiver.serve_forever()
