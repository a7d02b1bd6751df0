"""Prove that what was deployed works: as a client sees it, as Prometheus sees it, and as the autoscaler sees it."""

import base64
import json
import secrets
import time
from collections.abc import Callable, Sequence

import httpx

from tooling.deploy import DeployError
from tooling.deploy.kube import Kube, Object
from tooling.deploy.steps import Log

ACCOUNT = "deploy-check"
"""The Secret with address and password of the account of these checks."""

REMEDIES: dict[int, str] = {
    httpx.codes.FORBIDDEN: f"registration is closed: put email and password of an account into the Secret {ACCOUNT},"
    " or deploy once with REGISTRATION=open",
    httpx.codes.CONFLICT: f"the account has another password than the Secret {ACCOUNT}: delete the Secret, and the"
    " next deploy makes another account",
    httpx.codes.TOO_MANY_REQUESTS: "too many attempts to log in: a later deploy tries again",
}
"""What to do when the service refuses the account of these checks."""


class Refused(Exception):
    """The service refuses the account of these checks, which is no fault of the release."""


def until(condition: Callable[[], str], log: Log, *, timeout: float) -> None:
    """Wait until `condition` returns an empty text. Raises `DeployError` with its last text after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while problem := condition():
        if time.monotonic() > deadline:
            raise DeployError(f"{problem}, still after {timeout:.0f} s")
        log(problem)
        time.sleep(1)


def answers(url: str, log: Log, *, timeout: float) -> None:
    """Wait for the first 200 of /readyz from outside the cluster."""

    def problem() -> str:
        try:
            status = httpx.get(f"{url}/readyz", timeout=5).status_code
        except httpx.TransportError as error:
            return f"{url}/readyz: {error}"
        return "" if status == httpx.codes.OK else f"{url}/readyz answers {status}"

    until(problem, log, timeout=timeout)
    log(f"{url}/readyz answers 200")


def account(kube: Kube) -> dict[str, str]:
    """Return email and password of the account of these checks from its Secret, which is made where it is missing.

    Raises `DeployError` where the Secret lacks one of them.
    """
    secret = kube.get("secret", ACCOUNT)
    if secret is None:
        made = {"email": f"{ACCOUNT}-{secrets.token_hex(8)}@example.com", "password": secrets.token_urlsafe(24)}
        data = {name: base64.b64encode(value.encode()).decode() for name, value in made.items()}
        metadata = {"name": ACCOUNT, "namespace": kube.namespace}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}
        kube.apply([secret])
    try:
        return {name: base64.b64decode(secret["data"][name]).decode() for name in ("email", "password")}
    except KeyError as error:
        raise DeployError(f"the Secret {ACCOUNT} has no {error}: put it in, or delete the Secret") from error


def log_in(client: httpx.Client, credentials: dict[str, str]) -> None:
    """Log the client in to an account, which is made where it is missing.

    Raises `Refused` where the service does not let this account in, and `DeployError` where it answers wrongly.
    """
    response = client.post("/auth/login", json=credentials)
    if response.status_code == httpx.codes.UNAUTHORIZED:
        _admitted(client.post("/auth/register", json=credentials), httpx.codes.CREATED)
        response = client.post("/auth/login", json=credentials)
    _admitted(response, httpx.codes.OK)
    client.headers["Authorization"] = f"Bearer {response.json()['access_token']}"


def task_round(url: str, credentials: dict[str, str], log: Log) -> None:
    """Write a task, read it back, and remove it; or log why there is no account to do so with."""
    title = f"deploy check {secrets.token_hex(4)}"
    try:
        with httpx.Client(base_url=url, timeout=20) as client:
            log_in(client, credentials)
            created = client.post("/tasks", json={"title": title})
            _expect(created, httpx.codes.CREATED)
            path = f"/tasks/{created.json()['id']}"
            read = client.get(path)
            _expect(read, httpx.codes.OK)
            if read.json()["title"] != title:
                raise DeployError(f"{path} was written with the title {title!r} and reads {read.json()['title']!r}")
            _expect(client.delete(path), httpx.codes.OK)
    except Refused as refusal:
        log(f"WARNING: no task was written and read: {refusal}")
    except httpx.TransportError as error:
        raise DeployError(f"{error.request.url}: {error}") from error
    else:
        log(f"{path} written, read and removed")


def _admitted(response: httpx.Response, status: int) -> None:
    if remedy := REMEDIES.get(response.status_code):
        raise Refused(f"{response.request.url.path} answers {response.status_code}: {remedy}")
    _expect(response, status)


def _expect(response: httpx.Response, status: int) -> None:
    if response.status_code != status:
        request = response.request
        raise DeployError(
            f"{request.method} {request.url} answers {response.status_code}, not {status}: {response.text[:500]}"
        )


def scraped(kube: Kube, name: str, log: Log, *, timeout: float = 60) -> None:
    """Wait until Prometheus has metrics of every pod of the service."""
    # by the kubelet: network policies let no client but the monitoring itself in, hence not the API server's proxy
    query = ["promtool", "query", "instant", "--format=json", "http://localhost:9090"]
    pods = f'count(count by (pod) (api_requests_total{{job="{name}"}}))'  # it may scrape other services too

    def problem() -> str:
        deployment = kube.get("deployment", name)
        wanted = deployment["status"].get("readyReplicas", 0) if deployment else 0
        try:
            result = json.loads(kube.run("exec", "statefulset/prometheus", "--", *query, pods))
        except DeployError as error:
            return f"Prometheus does not answer: {error}"
        up = int(result[0]["value"][1]) if result else 0
        return "" if up >= wanted > 0 else f"Prometheus scrapes {up} of {wanted} pods"

    until(problem, log, timeout=timeout)
    log("Prometheus scrapes every pod")


def unreceived(kube: Kube, monitoring: Sequence[Object]) -> str:
    """Return a warning where an Alertmanager is deployed whose alerts reach nobody; else an empty text."""
    for item in monitoring:
        for volume in item.get("spec", {}).get("template", {}).get("spec", {}).get("volumes", []):
            if volume["name"] == "receivers" and not (kube.get("secret", volume["secret"]["secretName"]) or {}).get(
                "data"
            ):
                return (
                    f"WARNING: no alert reaches anybody, for want of a receiver: `kubectl --namespace {kube.namespace} "
                    f"create secret generic {volume['secret']['secretName']} --from-literal=page=https://…` "
                    "(docs/runbooks/README.md)"
                )
    return ""


def autoscaler_text(autoscaler: Object) -> tuple[bool, str]:
    """Return whether the autoscaler has a value for each metric, and those values as `kubectl get hpa` shows them."""
    status = autoscaler.get("status", {}).get("currentMetrics") or []
    current = dict(_values(metric, "current") for metric in status if metric["type"])  # none of one that cannot be read
    parts, known = [], True
    for metric in autoscaler["spec"]["metrics"]:
        name, target = _values(metric, "target")
        value = current.get(name)
        known = known and value is not None
        parts.append(f"{name}: {'<unknown>' if value is None else value}/{target}")
    return known, ", ".join(parts)


def _values(metric: Object, which: str) -> tuple[str, str | None]:
    """Return the name of an autoscaler's metric, and its `current` or `target` value; None where it has none."""
    if metric["type"] == "External":
        return metric["external"]["metric"]["name"], metric["external"][which].get("value")
    value = metric["resource"][which].get("averageUtilization")
    return metric["resource"]["name"], None if value is None else f"{value}%"


def autoscaler_reads(kube: Kube, name: str, log: Log, *, timeout: float = 120) -> None:
    """Wait until the autoscaler reads real numbers."""

    def problem() -> str:
        autoscaler = kube.get("horizontalpodautoscaler", name)
        if autoscaler is None:
            return f"there is no horizontalpodautoscaler/{name}"
        known, text = autoscaler_text(autoscaler)
        if known:
            log(text)
        return "" if known else f"the autoscaler reads {text}"

    until(problem, log, timeout=timeout)
