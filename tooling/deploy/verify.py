"""Prove that what was deployed works: as a client sees it, as Prometheus sees it, and as the autoscaler sees it."""

import secrets
import time
from collections.abc import Callable
from urllib.parse import quote

import httpx

from tooling.deploy import DeployError
from tooling.deploy.kube import Kube, Object
from tooling.deploy.steps import Say
from tooling.secrets import FOLDER

ACCOUNT = "deploy-check@example.com"


def until(condition: Callable[[], str], say: Say, *, timeout: float) -> None:
    """Ask CONDITION until it gives nothing. Raises `DeployError` with what it still gives after TIMEOUT seconds."""
    deadline = time.monotonic() + timeout
    while problem := condition():
        if time.monotonic() > deadline:
            raise DeployError(f"{problem}, still after {timeout:.0f} s")
        say(problem)
        time.sleep(1)


def answers(url: str, say: Say, *, timeout: float = 60) -> None:
    """Wait for the first 200 of /readyz from outside the cluster."""

    def problem() -> str:
        try:
            status = httpx.get(f"{url}/readyz", timeout=5).status_code
        except httpx.TransportError as error:
            return f"{url}/readyz: {error}"
        return "" if status == httpx.codes.OK else f"{url}/readyz answers {status}"

    until(problem, say, timeout=timeout)
    say(f"{url}/readyz answers 200")


def log_in(client: httpx.Client) -> None:
    """Log the client in to the account of these checks, which is made where it is missing.

    Its password is made once, at random, beside the other secrets.
    """
    file = FOLDER / "deploy-check"
    if not file.exists():
        FOLDER.mkdir(mode=0o700, exist_ok=True)
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(24))
    credentials = {"email": ACCOUNT, "password": file.read_text()}
    response = client.post("/auth/login", json=credentials)
    if response.status_code == httpx.codes.UNAUTHORIZED:
        _expect(client.post("/auth/register", json=credentials), httpx.codes.CREATED)
        response = client.post("/auth/login", json=credentials)
    _expect(response, httpx.codes.OK)
    client.headers["Authorization"] = f"Bearer {response.json()['access_token']}"


def task_round(url: str, say: Say) -> None:
    """Write a task, read it back, and remove it."""
    title = f"deploy check {secrets.token_hex(4)}"
    with httpx.Client(base_url=url, timeout=20) as client:
        log_in(client)
        created = client.post("/tasks", json={"title": title})
        _expect(created, httpx.codes.CREATED)
        path = f"/tasks/{created.json()['id']}"
        read = client.get(path)
        _expect(read, httpx.codes.OK)
        if read.json()["title"] != title:
            raise DeployError(f"{path} was written with the title {title!r} and reads {read.json()['title']!r}")
        _expect(client.delete(path), httpx.codes.OK)
    say(f"{path} written, read and removed")


def _expect(response: httpx.Response, status: int) -> None:
    if response.status_code != status:
        request = response.request
        raise DeployError(
            f"{request.method} {request.url} answers {response.status_code}, not {status}: {response.text[:500]}"
        )


def scraped(kube: Kube, say: Say, *, timeout: float = 60) -> None:
    """Wait until Prometheus has metrics of every pod of the service."""
    query = quote("count(count by (pod) (api_requests_total))", safe="")
    path = f"/api/v1/namespaces/{kube.namespace}/services/prometheus:9090/proxy/api/v1/query?query={query}"

    def problem() -> str:
        deployment = kube.get("deployment", "task-api")
        wanted = deployment["status"].get("readyReplicas", 0) if deployment else 0
        try:
            result = kube.raw(path)["data"]["result"]
        except DeployError as error:
            return f"Prometheus does not answer: {error}"
        up = int(result[0]["value"][1]) if result else 0
        return "" if up >= wanted > 0 else f"Prometheus scrapes {up} of {wanted} pods"

    until(problem, say, timeout=timeout)
    say("Prometheus scrapes every pod")


def autoscaler_text(autoscaler: Object) -> tuple[bool, str]:
    """Tell whether the autoscaler has a number for each metric, and write them as `kubectl get hpa` does."""
    current = {
        metric["resource"]["name"]: metric["resource"]["current"].get("averageUtilization")
        for metric in autoscaler.get("status", {}).get("currentMetrics") or []
        if metric["type"] == "Resource"
    }
    parts, known = [], True
    for metric in autoscaler["spec"]["metrics"]:
        name, target = metric["resource"]["name"], metric["resource"]["target"]["averageUtilization"]
        value = current.get(name)
        known = known and value is not None
        parts.append(f"{name}: {'<unknown>' if value is None else f'{value}%'}/{target}%")
    return known, ", ".join(parts)


def autoscaler_reads(kube: Kube, say: Say, *, timeout: float = 120) -> None:
    """Wait until the autoscaler reads real numbers."""

    def problem() -> str:
        autoscaler = kube.get("horizontalpodautoscaler", "task-api")
        if autoscaler is None:
            return "there is no horizontalpodautoscaler/task-api"
        known, text = autoscaler_text(autoscaler)
        if known:
            say(text)
        return "" if known else f"the autoscaler reads {text}"

    until(problem, say, timeout=timeout)
