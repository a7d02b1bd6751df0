"""The image, run as production runs it: no rights, nothing to write to, killed in the middle of its work."""

import json
import re
import secrets
import subprocess
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

import httpx
import pytest

from tooling.images import build
from tooling.project import service

pytestmark = pytest.mark.docker

HARDENED = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--user=1000"]
HARDENED += ["--tmpfs=/run/metrics:uid=1000"]
PYTHON = "/usr/bin/python3"
TRACE_RECEIVER = """
import http.server
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    print(self.path, span.trace_id.hex(), span.name, flush=True)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

http.server.HTTPServer(("0.0.0.0", 4318), Handler).serve_forever()
"""


def docker(*arguments: str) -> str:
    """Run docker and return its output, of both streams."""
    done = subprocess.run(
        ["docker", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stdout}"
    return done.stdout.strip()


@contextmanager
def running(image: str, volume: str, keys: str, network: str = "bridge", **settings: str) -> Iterator[tuple[str, str]]:
    """Run the image hardened, with its SQLite file in `volume`; yield the container and its address when ready."""
    environment = {"AUTH": "on", "JWT_KEYS": keys, "RATE_LIMIT": "off", **settings}
    options = [f"--env={name}={value}" for name, value in environment.items()]
    options += [f"--network={network}", f"--volume={volume}:/data", "--publish=127.0.0.1::5000"]
    container = docker("run", "--detach", *HARDENED, *options, image)
    try:
        address = f"http://{docker('port', container, '5000/tcp').splitlines()[0]}"
        deadline = time.monotonic() + 30
        while not ready(address):
            assert time.monotonic() < deadline, docker("logs", container)
            time.sleep(0.1)
        yield container, address
    finally:
        docker("rm", "--force", container)


def ready(address: str) -> bool:
    """Return whether the service is ready for requests."""
    try:
        return httpx.get(f"{address}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def volume() -> Iterator[str]:
    name = docker("volume", "create")
    yield name
    docker("volume", "rm", name)


@pytest.fixture
def keys() -> str:
    return f"test:{secrets.token_urlsafe(48)}"


@pytest.fixture(scope="module")
def files(image: str) -> dict[PurePosixPath, tarfile.TarInfo]:
    """Every file of the image."""
    container = docker("create", image)
    try:
        with (
            subprocess.Popen(["docker", "export", container], stdout=subprocess.PIPE) as export,
            tarfile.open(fileobj=export.stdout, mode="r|") as tree,
        ):
            return {PurePosixPath(entry.name): entry for entry in tree}
    finally:
        docker("rm", container)


def test_two_builds_from_nothing_produce_one_image(image: str) -> None:
    first = build.inspect(image)["Id"]
    assert build.inspect(build.build(service(), fresh=True))["Id"] == first


def test_every_file_is_accounted_for(image: str, files: dict[PurePosixPath, tarfile.TarInfo]) -> None:
    assert sum(part.size for part in build.parts(image)) == sum(e.size for e in files.values() if e.isfile())


def test_holds_no_shell_and_no_installer(files: dict[PurePosixPath, tarfile.TarInfo]) -> None:
    names = {path.name for path, entry in files.items() if not entry.isdir()}
    unwanted = {"sh", "bash", "dash", "busybox", "pip", "pip3", "ensurepip", "apt-get", "dpkg", "wget", "curl"}
    assert not names & unwanted
    assert "python3.13" in names


def test_the_service_cannot_change_its_own_code(files: dict[PurePosixPath, tarfile.TarInfo]) -> None:
    code = {path: entry for path, entry in files.items() if path.parts[0] == "app"}
    assert code
    assert {entry.uid for entry in code.values()} == {0}
    assert not [path for path, entry in code.items() if not entry.issym() and entry.mode & 0o022]


def memory(container: str) -> float:
    """The MiB that the container's processes hold for themselves."""
    script = (
        "import pathlib, re; print(sum(int(n) for p in pathlib.Path('/proc').glob('[0-9]*/status')"
        " for n in re.findall(r'RssAnon:\\s*(\\d+)', p.read_text())))"
    )
    return int(docker("exec", container, PYTHON, "-c", script)) / 1024


def test_logins_leave_no_memory_behind(image: str, volume: str, keys: str) -> None:
    with running(image, volume, keys, LOGIN_LIMIT="off") as (container, address):
        account = {"email": "ada@example.org", "password": secrets.token_urlsafe(12)}
        httpx.post(f"{address}/auth/register", json=account).raise_for_status()
        before = memory(container)

        def log_in(_number: int) -> int:
            while True:
                response = httpx.post(f"{address}/auth/login", json=account)
                if response.status_code != 429:
                    return response.status_code
                assert response.json()["type"].endswith("#overloaded")  # more at once than threads may hash
                time.sleep(int(response.headers["Retry-After"]))

        with ThreadPoolExecutor(8) as clients:
            assert set(clients.map(log_in, range(40))) == {200}
        assert memory(container) - before < 19  # what one hash takes, while it is made


def test_is_labelled_with_what_it_is_and_where_it_comes_from(image: str) -> None:
    source = build.Source.of_checkout()
    about = build.inspect(image)
    labels = about["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == "task-api"
    assert labels["org.opencontainers.image.revision"] == source.revision
    assert labels["org.opencontainers.image.created"] == source.created == about["Created"]
    assert about["Config"]["User"] == "1000:1000"
    assert about["Config"]["Healthcheck"]["Test"] == ["CMD", PYTHON, "-m", "task_api", "healthcheck"]


def test_refuses_to_serve_the_network_without_accounts(image: str) -> None:
    done = subprocess.run(["docker", "run", "--rm", *HARDENED, image], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "set AUTH=on and JWT_KEYS" in done.stderr


def test_serving_compiles_nothing_at_start(image: str) -> None:
    output = docker("run", "--rm", *HARDENED, f"--entrypoint={PYTHON}", image, "-v", "-c", "import service_kit.server")
    loaded = re.findall(r"^# code object from '(/.*)'$", output, re.MULTILINE)
    assert len(loaded) > 300
    assert [path for path in loaded if not path.startswith("/app/bytecode/")] == []


def test_python_and_libpq_share_the_base_images_openssl(image: str) -> None:
    program = "import psycopg, ssl; print(psycopg.pq.__impl__, open('/proc/self/maps').read())"
    output = docker("run", "--rm", *HARDENED, f"--entrypoint={PYTHON}", image, "-c", program)
    assert output.startswith("binary ")
    libraries = {line.split()[-1] for line in output.splitlines() if "libcrypto" in line or "libssl" in line}
    assert {PurePosixPath(library).name for library in libraries} == {"libcrypto.so.3", "libssl.so.3"}


def test_works_with_tasks_and_keeps_them(
    image: str,
    volume: str,
    keys: str,
    sign_up: Callable[[str], dict[str, str]],
    log_in: Callable[[str, dict[str, str]], httpx.Client],
) -> None:
    with running(image, volume, keys) as (container, address):
        account = sign_up(address)
        client = log_in(address, account)
        task = client.post("/tasks", json={"title": "survive"}).raise_for_status().json()
        change = {"Content-Type": "application/merge-patch+json"}
        client.patch(f"/tasks/{task['id']}", json={"status": "completed"}, headers=change).raise_for_status()
        gone = client.post("/tasks", json={"title": "leave"}).raise_for_status().json()
        client.delete(f"/tasks/{gone['id']}").raise_for_status()
        assert "api_requests_total" in client.get("/metrics").text
        docker("exec", container, PYTHON, "-m", "task_api", "healthcheck")
    with running(image, volume, keys) as (_, address):
        tasks = log_in(address, account).get("/tasks").json()
    assert [(task["title"], task["status"]) for task in tasks] == [("survive", "completed")]


@pytest.fixture
def trace_receiver(image: str) -> Iterator[tuple[str, str]]:
    """An OTLP receiver that prints every span, in a network of its own: the container and the network."""
    network = docker("network", "create", f"task-api-test-{secrets.token_hex(4)}")
    command = [
        f"--network={network}",
        "--network-alias=trace-receiver",
        f"--entrypoint={PYTHON}",
        image,
        "-c",
        TRACE_RECEIVER,
    ]
    container = docker("run", "--detach", *HARDENED, *command)
    yield container, network
    docker("rm", "--force", container)
    docker("network", "rm", network)


def test_sends_the_spans_of_a_callers_trace(
    image: str, volume: str, keys: str, trace_receiver: tuple[str, str]
) -> None:
    receiver, network = trace_receiver
    trace = secrets.token_hex(16)
    endpoint = "http://trace-receiver:4318"
    with running(image, volume, keys, network, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as (container, address):
        httpx.get(f"{address}/tasks", headers={"traceparent": f"00-{trace}-{secrets.token_hex(8)}-01"}, timeout=10)
        docker("stop", container)
        assert f"/v1/traces {trace} GET /tasks" in docker("logs", receiver), docker("logs", container)


def test_sigterm_under_load_loses_nothing(
    image: str,
    volume: str,
    keys: str,
    sign_up: Callable[[str], dict[str, str]],
    log_in: Callable[[str, dict[str, str]], httpx.Client],
    all_tasks: Callable[[httpx.Client], list[dict[str, Any]]],
) -> None:
    created: list[str] = []
    failures: list[str] = []
    stopped_sending = threading.Event()

    def send(client: httpx.Client, sender: int) -> None:
        """Create tasks, each by a new connection, until the balancer stops sending requests."""
        number = 0
        while not stopped_sending.is_set():
            title = f"{sender}-{number}"
            number += 1
            try:
                response = client.post("/tasks", json={"title": title}, headers={"Connection": "close"})
            except httpx.TransportError as error:
                failures.append(f"{title}: {error!r}")
            else:
                (created if response.status_code == 201 else failures).append(title)

    with running(image, volume, keys, DRAIN_SECONDS="2") as (container, address):
        account = sign_up(address)
        client = log_in(address, account)
        senders = [threading.Thread(target=send, args=(client, number)) for number in range(8)]
        for sender in senders:
            sender.start()
        time.sleep(2)
        before = len(created)
        docker("kill", "--signal=TERM", container)
        while ready(address):
            time.sleep(0.05)
        stopped_sending.set()
        for sender in senders:
            sender.join()
        assert int(docker("wait", container)) == 0, docker("logs", container)
        state = json.loads(docker("inspect", container))[0]["State"]
        assert not state["OOMKilled"]
    assert failures == []
    assert 0 < before < len(created), "requests must have been answered before and after SIGTERM"
    with running(image, volume, keys) as (_, address):
        kept = Counter(task["title"] for task in all_tasks(log_in(address, account)))
    assert kept == Counter(created)
