"""Receive Alertmanager's webhooks and tell each alert: on a laptop as one JSON line, in the drills to a list.

`python receiver.py HOST PORT` prints; the path of a request is the receiver's name. The standard library alone, so
that any Python image can run it.
"""

import json
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Receiver(ThreadingHTTPServer):
    """Listens on HOST and PORT (0 takes a free one) and calls TELL with each alert that arrives."""

    def __init__(self, host: str, port: int, tell: Callable[[dict[str, str]], object]) -> None:
        super().__init__((host, port), Webhook)
        self.tell = tell


class Webhook(BaseHTTPRequestHandler):
    """Alertmanager's webhook (version 4), and an answer to GET for health checks."""

    server: Receiver

    def do_POST(self) -> None:
        """Take a group of alerts."""
        group = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        for alert in group["alerts"]:
            about = {"receiver": self.path.strip("/"), "status": alert["status"], "since": alert["startsAt"]}
            self.server.tell({**about, **alert["labels"], **alert["annotations"]})
        self.do_GET()

    def do_GET(self) -> None:
        """Say yes."""
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Keep silent: standard output is for the alerts."""


if __name__ == "__main__":
    host, port = sys.argv[1:]
    with Receiver(host, int(port), lambda alert: print(json.dumps(alert), flush=True)) as receiver:
        receiver.serve_forever()
