"""Prometheus, Alertmanager and a webhook receiver as real processes on loopback, with this project's own configuration.

They run on copies of this folder's files in which only the addresses differ, and with `hurry` the waits: scrapes and
evaluations run every second, every `for:` is 10 s, and every delay of Alertmanager is 1 s. Expressions, windows and
thresholds never change.
"""

import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import yaml

from monitoring.receiver import Receiver
from tooling.project import Service, services
from tooling.service import free_port, listening
from tooling.tools import require

FOLDER = Path(__file__).parent
RULES = FOLDER / "prometheus" / "rules"
HURRIED_FOR = "10s"  # Prometheus begins to scrape about 6 s after its start; until then every series is absent
SAMPLE = FOLDER / "samples" / "kube-state-metrics.prom"
KUBELET = FOLDER / "samples" / "kubelet.prom"
BLACKBOX = FOLDER / "samples" / "blackbox_exporter.prom"
CLOUDNATIVEPG = FOLDER / "samples" / "cloudnative-pg.prom"
HOUR = 3600


class NotSeen(Exception):
    """The expected event did not happen in time."""


@dataclass
class Stack:
    """Addresses of the running programs, the folder of their configuration, and the alerts received so far."""

    prometheus: str
    alertmanager: str
    folder: Path
    alerts: list[dict[str, str]] = field(default_factory=list)
    stop_prometheus: Callable[[], None] = lambda: None

    def response(self, path: str, **parameters: str) -> dict[str, Any]:
        """Return the response of Prometheus' API at `path`. Raises `httpx.HTTPStatusError` with its message."""
        response = httpx.get(f"{self.prometheus}/api/v1/{path}", params=parameters, timeout=30)
        if response.is_error:
            raise httpx.HTTPStatusError(response.text, request=response.request, response=response)
        content: dict[str, Any] = response.json()
        return content

    def data(self, path: str, **parameters: str) -> Any:
        """Return the `data` of the response; otherwise as `response`."""
        return self.response(path, **parameters)["data"]

    def reload(self) -> bool:
        """Make Prometheus reload its configuration; return whether it accepted it."""
        return httpx.post(f"{self.prometheus}/-/reload", timeout=30).is_success


def wait(
    condition: Callable[[], Any], what: str, *, seconds: float = 90, meanwhile: Callable[[], object] = lambda: None
) -> Any:
    """Wait until `condition` returns a true value and return it; call `meanwhile` in between. Raises `NotSeen`."""
    deadline = time.monotonic() + seconds
    while not (seen := condition()):
        if time.monotonic() > deadline:
            raise NotSeen(f"not within {seconds:.0f} s: {what}")
        meanwhile()
        time.sleep(0.1)
    return seen


def rules_of(one: Service) -> Path:
    """Return the file with the rules of a service that is not the default one."""
    return one.folder / "monitoring" / "rules.yml"


def configure(folder: Path, jobs: Mapping[str, str], alertmanager: str, receiver: str, *, hurry: bool) -> None:
    """Write copies of the configuration into `folder`: scrape `jobs` (name: address), send alerts to `receiver`.

    The rules of a further service are among them where it is scraped.
    """
    shutil.copytree(RULES, folder / "rules")
    for one in services():
        if one.name in jobs and not one.default:
            shutil.copy(rules_of(one), folder / "rules" / f"{one.package}.yml")
    prometheus = yaml.safe_load((FOLDER / "prometheus" / "prometheus.yml").read_text())
    prometheus["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [alertmanager]
    scrapes = [{"job_name": job, "static_configs": [{"targets": [address]}]} for job, address in jobs.items()]
    routing = yaml.safe_load((FOLDER / "alertmanager" / "alertmanager.yml").read_text())
    for entry in routing["receivers"]:
        webhook = entry["webhook_configs"][0]
        webhook["url"] = f"{receiver}/{Path(webhook.pop('url_file')).name}"
    if hurry:
        prometheus["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        for path in (folder / "rules").glob("*.yml"):
            rules = yaml.safe_load(path.read_text())
            for rule in (rule for group in rules["groups"] for rule in group["rules"] if "for" in rule):
                rule["for"] = HURRIED_FOR
            path.write_text(yaml.safe_dump(rules))
        for route in (routing["route"], *routing["route"]["routes"]):
            route |= {"group_wait": "1s", "group_interval": "1s", "repeat_interval": "1s"}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(prometheus))
    (folder / "scrape.yml").write_text(yaml.safe_dump({"scrape_configs": scrapes}))
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(routing))


@contextmanager
def running(jobs: Mapping[str, str], *, hurry: bool) -> Iterator[Stack]:
    """Run all three until the block ends. `jobs` (name: host:port) are scraped, and Prometheus and Alertmanager too.

    Raises `MissingTool` where Prometheus or Alertmanager is not installed, `ServiceError` where one does not start.
    """
    prometheus, alertmanager = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="monitoring-")))
        stack = Stack(f"http://{prometheus}", f"http://{alertmanager}", folder)
        receiver = cleanup.enter_context(serving(Receiver("127.0.0.1", 0, stack.alerts.append)))
        itself = {"prometheus": prometheus, "alertmanager": alertmanager}
        configure(folder, {**itself, **jobs}, alertmanager, receiver, hurry=hurry)
        command: list[str | Path] = [
            require("alertmanager"),
            f"--config.file={folder}/alertmanager.yml",
            f"--storage.path={folder}/alertmanager",
            f"--web.listen-address={alertmanager}",
            "--cluster.listen-address=",
        ]
        cleanup.enter_context(
            listening(command, {}, ready=f"{stack.alertmanager}/-/ready", log=folder / "alertmanager.log")
        )
        command = [
            require("prometheus"),
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/prometheus",
            f"--web.listen-address={prometheus}",
            "--web.enable-lifecycle",
            "--enable-feature=exemplar-storage",
            *(["--rules.alert.resend-delay=1s"] if hurry else []),
        ]
        inner = cleanup.enter_context(ExitStack())
        inner.enter_context(listening(command, {}, ready=f"{stack.prometheus}/-/ready", log=folder / "prometheus.log"))
        stack.stop_prometheus = inner.close
        yield stack


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[str]:
    """Serve in a thread until the block ends, and yield the address, without a trailing slash."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def cluster_metrics(backup_age: float = HOUR, base_backup_age: float = HOUR) -> str:
    """Return the samples of what a cluster's exporters measure, the last backups so many seconds ago."""
    samples = SAMPLE.read_text() + KUBELET.read_text() + BLACKBOX.read_text() + CLOUDNATIVEPG.read_text()
    for metric, age in (
        ("kube_cronjob_status_last_successful_time", backup_age),
        ("barman_cloud_cloudnative_pg_io_last_available_backup_timestamp", base_backup_age),
    ):
        samples = re.sub(rf"(?m)^({metric}{{.*}}) .*$", rf"\1 {time.time() - age:.0f}", samples)
    return samples


class Page(ThreadingHTTPServer):
    """Responds to every GET with `text`: with `cluster_metrics` it stands in for kube-state-metrics."""

    def __init__(self, text: str) -> None:
        super().__init__(("127.0.0.1", 0), _PageHandler)
        self.text = text


class _PageHandler(BaseHTTPRequestHandler):
    server: Page

    def do_GET(self) -> None:
        body = self.server.text.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        pass
