"""Alert drills: cause the condition of each alert in real processes, and check that it arrives at its webhook.

`python -m monitoring.drills [ALERT ...]` writes reports/monitoring/drills.json and drills.html. It exits with 0 when
every alert of the rules has a drill and arrived, with 1 when not, with 2 when Prometheus or Alertmanager is missing.

The service, PostgreSQL, Prometheus and Alertmanager are real; kube-state-metrics is a stand-in that serves a sample
recorded on a cluster. Waits are shortened as in `monitoring.stack`; expressions and thresholds are not.
"""

import argparse
import functools
import json
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import psycopg
import yaml
from rich.console import Console

from monitoring.operator_rules import repository
from monitoring.stack import HOUR, RULES, NotSeen, Page, Stack, cluster_metrics, rules_of, running, serving, wait
from tooling import service
from tooling.page import render
from tooling.postgres import postgres
from tooling.project import REPORTS, ROOT, services
from tooling.project import service as project_service
from tooling.tools import MissingTool, version

AT_ONCE = 4  # a drill mostly waits
WATCHDOG = "Watchdog"
QUIET_SECONDS = 20
TEMPLATES = ROOT / "templates/service/files/monitoring/runbooks"
DRILLS: dict[str, Callable[[], float]] = {}


@dataclass(frozen=True)
class Result:
    """The cause, the expected receiver, and the seconds until the alert arrived there or the problem."""

    alert: str
    cause: str
    receiver: str
    seconds: float = 0
    problem: str = ""


def drill(function: Callable[[], float]) -> Callable[[], float]:
    """Register the drill of the alert with its name: `task_api_down` is for TaskApiDown. It returns seconds."""
    DRILLS[function.__name__.title().replace("_", "")] = function
    return function


@functools.cache
def alerts() -> dict[str, dict[str, Any]]:
    """Return each alert's rule by its name: those of the rules, and what further services add to their template's."""
    groups = [group for path in sorted(RULES.glob("*.yml")) for group in yaml.safe_load(path.read_text())["groups"]]
    found = {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}
    usual = tuple(page.name.removesuffix(".md.jinja").rpartition("}")[2] for page in TEMPLATES.iterdir())
    for one in services():
        if not one.default:
            (group,) = yaml.safe_load(rules_of(one).read_text())["groups"]
            found |= {rule["alert"]: rule for rule in group["rules"] if not rule["alert"].endswith(usual)}
    return found


def expected() -> dict[str, str]:
    """Return each alert that needs a drill, and the receiver of its severity."""
    return {name: "deadman" if name == WATCHDOG else rule["labels"]["severity"] for name, rule in alerts().items()}


def runbook(alert: str) -> str:
    """Return the full address of an alert's runbook."""
    address: str = alerts()[alert]["annotations"]["runbook_url"]
    return address.replace("{{ $externalLabels.repository }}", repository())


def arrival(stack: Stack, alert: str, *, meanwhile: Callable[[], object] = lambda: None) -> float:
    """Return the seconds until the alert arrived at its receiver; call `meanwhile` in between.

    Raises `NotSeen` when it does not arrive, arrives elsewhere, or lacks the full address of its runbook.
    """
    start, receiver = time.monotonic(), expected()[alert]

    def arrived() -> bool:
        seen = [one for one in list(stack.alerts) if one["alertname"] == alert]
        places = {one["receiver"] for one in seen}
        if places - {receiver}:
            raise NotSeen(f"it arrived at {', '.join(places)} instead of {receiver}")
        if wrong := {one["runbook_url"] for one in seen} - {runbook(alert)}:
            raise NotSeen(f"its runbook is {', '.join(wrong)}, which is not below {repository()}")
        return bool(seen)

    try:
        wait(arrived, alert, meanwhile=meanwhile)
    except NotSeen as error:
        raise NotSeen(f"{error}; what arrived: {', '.join(sorted(others(stack))) or 'nothing'}") from None
    return time.monotonic() - start


def others(stack: Stack) -> set[str]:
    """Return the names of the alerts that arrived, without the watchdog."""
    return {seen["alertname"] for seen in list(stack.alerts)} - {WATCHDOG}


def watched(url: str = "", **jobs: str) -> AbstractContextManager[Stack]:
    """Run the stack; it scrapes the service at `url` and further `jobs` by their names."""
    targets = {"task-api": url, **jobs} if url else jobs
    return running(
        {job.replace("_", "-"): target.removeprefix("http://") for job, target in targets.items()}, hurry=True
    )


@contextmanager
def on_postgres(**settings: str) -> Iterator[tuple[str, psycopg.Connection]]:
    """Run the service on its own PostgreSQL; yield the service's address and a connection to the database."""
    with (
        postgres() as database,
        service.running({"DATABASE_URL": database, "RATE_LIMIT": "off", **settings}) as url,
        psycopg.connect(database, autocommit=True) as connection,
    ):
        yield url, connection


@contextmanager
def with_accounts(kid: str) -> Iterator[str]:
    """Run the service with accounts, whose tokens the key `kid` signs; yield its address."""
    with service.running({"AUTH": "on", "JWT_KEYS": f"{kid}:{secrets.token_urlsafe(48)}", "RATE_LIMIT": "off"}) as url:
        yield url


def fetch(url: str, times: int = 1, **headers: str) -> None:
    """List the tasks `times` times; ignore the responses."""
    with httpx.Client(timeout=30, headers=headers, verify=service.NO_AUTHORITIES) as client:
        for _ in range(times):
            client.get(f"{url}/tasks", params={"limit": "1"})


@contextmanager
def waiting(url: str, connection: psycopg.Connection, requests: int) -> Iterator[None]:
    """Make this number of requests wait for a lock on the tasks until the block ends."""
    over = threading.Event()

    def repeat() -> None:
        while not over.is_set():  # the service responds 503 after some seconds
            fetch(url)

    blocked = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    with ThreadPoolExecutor(requests) as pool, connection.transaction():
        connection.execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
        for _ in range(requests):
            pool.submit(repeat)
        try:
            wait(lambda: connection.execute(blocked).fetchone() == (requests,), f"{requests} requests at the lock")
            yield
        finally:
            over.set()


def slow(url: str, connection: psycopg.Connection, requests: int) -> None:
    """Make this number of requests take 400 ms."""
    with waiting(url, connection, requests):
        time.sleep(0.4)


@drill
def task_api_availability_burn_fast() -> float:
    """The database ends, and clients continue to send requests."""
    with ExitStack() as database:
        address = database.enter_context(postgres())
        with service.running({"DATABASE_URL": address}) as url, watched(url) as stack:
            fetch(url, 50)
            database.close()
            return arrival(stack, "TaskApiAvailabilityBurnFast", meanwhile=lambda: fetch(url))


@drill
def task_api_availability_burn_slow() -> float:
    """One request in 300 is answered with 500, because its table is renamed."""
    with on_postgres() as (url, connection):

        def one_fails() -> None:
            connection.execute("ALTER TABLE tasks RENAME TO elsewhere")
            fetch(url)
            connection.execute("ALTER TABLE elsewhere RENAME TO tasks")
            fetch(url, 299)

        one_fails()
        with watched(url) as stack:
            return slowly(stack, "Availability", url, 1500, one_fails)


@drill
def task_api_latency_burn_fast() -> float:
    """Half of the requests wait 400 ms for a lock."""
    with on_postgres() as (url, connection), watched(url) as stack:

        def half_wait() -> None:
            fetch(url, 4)
            slow(url, connection, 4)

        return arrival(stack, "TaskApiLatencyBurnFast", meanwhile=half_wait)


@drill
def task_api_latency_burn_slow() -> float:
    """Three requests in a hundred wait 400 ms for a lock."""
    with on_postgres() as (url, connection), watched(url) as stack:

        def few_wait() -> None:
            slow(url, connection, 3)
            fetch(url, 97)

        return slowly(stack, "Latency", url, 300, few_wait)


def slowly(stack: Stack, objective: str, url: str, good: int, meanwhile: Callable[[], None]) -> float:
    """Wait for the slow burn of an objective after `good` successes. Raises `NotSeen` if the fast one fires too."""
    wait(
        lambda: stack.data("query", query="slo:requests:rate5m > 0")["result"],
        "the first requests",
        meanwhile=lambda: fetch(url),
    )
    fetch(url, good)
    seconds = arrival(stack, f"TaskApi{objective}BurnSlow", meanwhile=meanwhile)
    if f"TaskApi{objective}BurnFast" in others(stack):
        raise NotSeen("the alert of the fast burn arrived too")
    return seconds


@drill
def task_api_down() -> float:
    """The service ends, and Prometheus still has its address."""
    with ExitStack() as up:
        url = up.enter_context(service.running({}))
        with watched(url) as stack:
            up.close()
            return arrival(stack, "TaskApiDown")


@drill
def task_api_absent() -> float:
    """Prometheus has no address of the service."""
    with watched() as stack:
        return arrival(stack, "TaskApiAbsent")


@drill
def task_api_metrics_missing() -> float:
    """Another program answers at the service's address."""
    with serving(Page("something_else 1\n")) as url, watched(url) as stack:
        return arrival(stack, "TaskApiMetricsMissing")


@drill
def task_api_not_ready() -> float:
    """The database ends, and the load balancer continues to probe."""
    with ExitStack() as database:
        address = database.enter_context(postgres())
        with service.running({"DATABASE_URL": address}) as url, watched(url) as stack:
            database.close()
            return arrival(stack, "TaskApiNotReady", meanwhile=lambda: httpx.get(f"{url}/readyz", timeout=30))


@drill
def task_api_database_down() -> float:
    """The database ends, and the load balancer continues to probe. A schema that is behind does not fire this alert."""
    with ExitStack() as database:
        address = database.enter_context(postgres())
        with (
            service.running({"DATABASE_URL": address}) as url,
            watched(url) as stack,
            psycopg.connect(address, autocommit=True) as connection,
        ):

            def probe() -> None:
                httpx.get(f"{url}/readyz", timeout=30)

            connection.execute("ALTER TABLE alembic_version RENAME TO elsewhere")
            arrival(stack, "TaskApiNotReady", meanwhile=probe)
            if "TaskApiDatabaseDown" in others(stack):
                raise NotSeen("it arrived while the database was up")
            connection.close()
            database.close()
            return arrival(stack, "TaskApiDatabaseDown", meanwhile=probe)


@drill
def task_api_drain_stuck() -> float:
    """The service receives SIGTERM and does not end."""
    with TemporaryDirectory() as folder:
        url = f"http://127.0.0.1:{service.free_port()}"
        settings = {"PORT": url.rpartition(":")[2], "DB_PATH": f"{folder}/tasks.db", "DRAIN_SECONDS": "20"}
        command, log = service.command_line("serve"), Path(folder, "log")
        with service.listening(command, settings, ready=f"{url}/readyz", log=log) as process, watched(url) as stack:
            process.terminate()
            seconds = arrival(stack, "TaskApiDrainStuck")
            process.wait(60)
            return seconds


@drill
def task_api_threads_busy() -> float:
    """Three of four threads wait for a lock; the scrape takes the fourth."""
    with on_postgres(WORKERS="1", THREADS="4") as (url, connection), waiting(url, connection, 3), watched(url) as stack:
        return arrival(stack, "TaskApiThreadsBusy")


@drill
def task_api_database_pool_exhausted() -> float:
    """Both connections wait for a lock."""
    with (
        on_postgres(WORKERS="1", DB_POOL_SIZE="2") as (url, connection),
        waiting(url, connection, 2),
        watched(url) as stack,
    ):
        return arrival(stack, "TaskApiDatabasePoolExhausted")


@drill
def task_api_expired_rows_remain() -> float:
    """A transaction holds an idempotency key that has expired."""
    with on_postgres() as (url, connection), watched(url) as stack:
        connection.execute(
            "INSERT INTO idempotency_keys (owner_id, key, request_digest, claim, claimed_at)"
            " VALUES (0, 'held', sha256('held'), 'held', now() - interval '3 days')"
        )
        with connection.transaction():
            held = connection.execute("SELECT FROM idempotency_keys WHERE key = 'held' FOR UPDATE").rowcount
            if held != 1:
                raise NotSeen("the service deleted the key before the drill locked it")
            return arrival(stack, "TaskApiExpiredRowsRemain")


@drill
def task_api_auth_failures() -> float:
    """A client sends forged tokens, one after the other."""
    with with_accounts("k1") as url, watched(url) as stack:
        forged = {"Authorization": f"Bearer {secrets.token_urlsafe(64)}"}
        return arrival(stack, "TaskApiAuthFailures", meanwhile=lambda: fetch(url, 100, **forged))


@drill
def task_api_rate_limiting() -> float:
    """A client sends five times as many requests as its limit."""
    with service.running({"RATE_LIMIT": "20/second"}) as url, watched(url) as stack:

        def hasty() -> None:
            fetch(url, 20)
            time.sleep(0.1)

        return arrival(stack, "TaskApiRateLimiting", meanwhile=hasty)


@drill
def task_api_signing_key_old() -> float:
    """The signing key of the tokens is years old."""
    with with_accounts("20200101-4f2a1c") as url, watched(url) as stack:
        return arrival(stack, "TaskApiSigningKeyOld")


@contextmanager
def delivering() -> Iterator[tuple[str, str, psycopg.Connection, Stack]]:
    """Run the service and notifier on one PostgreSQL, with a webhook whose address refuses connections.

    Yield the database's and the service's address, a connection to the database, and the stack, which scrapes notifier.
    """
    closed = f"http://127.0.0.1:{service.free_port()}/"
    with ExitStack() as running:
        keys = f"drill:{secrets.token_urlsafe(32)}"
        database = {"DATABASE_URL": running.enter_context(postgres()), "WEBHOOKS": "insecure", "ENCRYPTION_KEYS": keys}
        url = running.enter_context(service.running({**database, "WEBHOOK_DELIVERY": "notifier"}))
        httpx.post(f"{url}/webhooks", json={"url": closed}).raise_for_status()
        connection = running.enter_context(psycopg.connect(database["DATABASE_URL"], autocommit=True))
        notifier = running.enter_context(service.running(database, service=project_service("notifier"), workers=1))
        yield database["DATABASE_URL"], url, connection, running.enter_context(watched(notifier=notifier))


def change(url: str) -> None:
    """Make a change that is to be delivered."""
    httpx.post(f"{url}/tasks", json={"title": "a task"}).raise_for_status()


@drill
def notifier_queue_old() -> float:
    """A session holds a lock on the webhook, whose next change was made ten minutes ago."""
    with delivering() as (database, url, connection, stack), psycopg.connect(database) as holder:
        connection.execute("UPDATE webhooks SET next_attempt_at = now() - interval '10 minutes'")
        holder.execute("SELECT FROM webhooks FOR UPDATE")
        change(url)
        connection.execute("UPDATE task_changes SET changed_at = now() - interval '10 minutes'")
        return arrival(stack, "NotifierQueueOld")


@drill
def notifier_reminders_late() -> float:
    """A session holds a lock on the queue, and a reminder has been due for ten minutes."""
    with delivering() as (database, url, connection, stack), psycopg.connect(database) as holder:
        task = {"title": "a task", "reminders": [{"at": "2100-01-01T00:00:00Z"}]}
        httpx.post(f"{url}/tasks", json=task).raise_for_status()
        holder.execute("LOCK TABLE task_changes IN SHARE MODE")
        connection.execute("UPDATE task_reminders SET remind_at = now() - interval '10 minutes'")
        return arrival(stack, "NotifierRemindersLate")


def failing(alert: str, dead_in_a_row: int) -> float:
    """Have changes fail for more than a day, and wait for the alert."""
    given_up = (
        "UPDATE webhooks SET disabled_at = NULL, failing_since = now() - interval '2 days', next_attempt_at = now(),"
        " dead_in_a_row = %s"
    )
    with delivering() as (_, url, connection, stack):

        def fail() -> None:
            change(url)
            connection.execute(given_up, (dead_in_a_row,))

        return arrival(stack, alert, meanwhile=fail)


@drill
def notifier_dead_letters() -> float:
    """The address of a webhook refuses connections, and has done so for two days."""
    return failing("NotifierDeadLetters", 0)


@drill
def notifier_webhooks_disabled() -> float:
    """The address of a webhook refuses connections, and the two changes before are dead letters."""
    return failing("NotifierWebhooksDisabled", 2)


def in_cluster(alert: str, before: str, after: str) -> float:
    """Replace `before` by `after` in kube-state-metrics' sample, and wait for the alert."""
    metrics = cluster_metrics()
    if before not in metrics:
        raise NotSeen(f"the sample does not hold {before!r}")
    return becoming(alert, metrics, metrics.replace(before, after))


def becoming(alert: str, before: str, after: str) -> float:
    """Serve `before` and then `after` as kube-state-metrics does, and wait for the alert."""
    page = Page(before)
    with serving(page) as url, watched(kube_state_metrics=url) as stack:
        scraped = 'count(up{job="kube-state-metrics"} == 1)'
        wait(lambda: stack.data("query", query=scraped)["result"], "the first scrape")
        if alert in others(stack):
            raise NotSeen("it arrived before its condition held")
        page.text = after
        return arrival(stack, alert)


@drill
def task_api_hpa_at_maximum() -> float:
    """The autoscaler runs its maximum of ten pods (kube-state-metrics: sample)."""
    series = 'status_current_replicas{namespace="task-api",horizontalpodautoscaler="task-api"}'
    return in_cluster("TaskApiHpaAtMaximum", f"{series} 2", f"{series} 10")


@drill
def task_api_hpa_blind() -> float:
    """The autoscaler cannot read its metrics (kube-state-metrics: sample)."""
    series = 'condition="ScalingActive",status="false"}'
    return in_cluster("TaskApiHpaBlind", f"{series} 0", f"{series} 1")


@drill
def task_api_replicas_missing() -> float:
    """One pod of two is not available (kube-state-metrics: sample)."""
    series = 'kube_deployment_status_replicas_available{namespace="task-api",deployment="task-api"}'
    return in_cluster("TaskApiReplicasMissing", f"{series} 2", f"{series} 1")


@drill
def task_api_restarting() -> float:
    """Containers restart four times (kube-state-metrics: sample)."""
    return in_cluster("TaskApiRestarting", 'container="task-api"} 0', 'container="task-api"} 4')


@drill
def task_api_backup_stale() -> float:
    """The last backup was an hour ago, then 27 hours (kube-state-metrics: sample)."""
    return becoming("TaskApiBackupStale", cluster_metrics(), cluster_metrics(backup_age=27 * HOUR))


@drill
def task_api_volume_filling() -> float:
    """The database's volume has 5 % left (kubelet: sample)."""
    series = 'available_bytes{namespace="task-api",persistentvolumeclaim="data-postgres-0"}'
    return in_cluster("TaskApiVolumeFilling", f"{series} 8.2e+09", f"{series} 5e+08")


@drill
def task_api_standby_missing() -> float:
    """One of two standbys follows the primary no more (CloudNativePG: sample)."""
    series = 'cnpg_pg_replication_streaming_replicas{cnpg_io_cluster="postgres",pod="postgres-1"}'
    return in_cluster("TaskApiStandbyMissing", f"{series} 2", f"{series} 1")


@drill
def task_api_archive_stale() -> float:
    """The archive has taken no segment for ten minutes, and three wait (CloudNativePG: sample)."""
    labels = 'cnpg_io_cluster="postgres",pod="postgres-1"'
    age = f"cnpg_pg_stat_archiver_seconds_since_last_archival{{{labels}}}"
    waiting = f'cnpg_collector_pg_wal_archive_status{{{labels},value="ready"}}'
    before = cluster_metrics()
    after = re.sub(rf"(?m)^{re.escape(age)} .*$", f"{age} 600", before.replace(f"{waiting} 0", f"{waiting} 3"))
    return becoming("TaskApiArchiveStale", before, after)


@drill
def task_api_base_backup_stale() -> float:
    """The last base backup was an hour ago, then 27 hours (barman-cloud plugin: sample)."""
    fresh, stale = cluster_metrics(), cluster_metrics(base_backup_age=27 * HOUR)
    return becoming("TaskApiBaseBackupStale", fresh, stale)


@drill
def task_api_certificate_ending() -> float:
    """The load balancer's certificate ends in ten days (blackbox_exporter: sample)."""
    series = 'instance="https://tasks.example.com",service="task-api"}'
    return in_cluster("TaskApiCertificateEnding", f"{series} 4.1024448e+09", f"{series} {time.time() + 240 * HOUR:.0f}")


@drill
def watchdog() -> float:
    """All is well: it arrives repeatedly. Then Prometheus ends, and it stops."""
    with watched() as stack:
        seconds = arrival(stack, WATCHDOG)
        wait(lambda: len(beats(stack)) > 1, "a second heartbeat")
        stack.stop_prometheus()

        def silent() -> bool:
            before = len(beats(stack))
            time.sleep(2)
            return len(beats(stack)) == before

        wait(silent, "silence after Prometheus has ended")
        return seconds


def beats(stack: Stack) -> list[dict[str, str]]:
    """Return the alerts that arrived at the dead man's switch."""
    return [seen for seen in list(stack.alerts) if seen["receiver"] == "deadman"]


@drill
def target_down() -> float:
    """kube-state-metrics ends."""
    with ExitStack() as up:
        url = up.enter_context(serving(Page(cluster_metrics())))
        with watched(kube_state_metrics=url) as stack:
            up.close()
            return arrival(stack, "TargetDown")


@drill
def prometheus_rule_failing() -> float:
    """A rule that no data can satisfy is added: many series match many."""
    with watched() as stack:
        rule = {"record": "broken", "expr": "up * on () up"}
        broken = {"groups": [{"name": "broken", "rules": [rule]}]}
        (stack.folder / "rules" / "broken.yml").write_text(yaml.safe_dump(broken))
        stack.reload()
        return arrival(stack, "PrometheusRuleFailing")


@drill
def prometheus_reload_failed() -> float:
    """Prometheus reloads a broken configuration."""
    with watched() as stack:
        (stack.folder / "prometheus.yml").write_text("global: [\n")
        if stack.reload():
            raise NotSeen("Prometheus accepted the broken configuration")
        return arrival(stack, "PrometheusReloadFailed")


@drill
def alertmanager_notifications_failing() -> float:
    """The dead man's switch is unreachable, so that no delivery succeeds."""
    with watched() as stack:
        path = stack.folder / "alertmanager.yml"
        routing = yaml.safe_load(path.read_text())
        deadman = next(entry for entry in routing["receivers"] if entry["name"] == "deadman")
        deadman["webhook_configs"][0]["url"] = f"http://127.0.0.1:{service.free_port()}/deadman"
        path.write_text(yaml.safe_dump(routing))
        httpx.post(f"{stack.alertmanager}/-/reload").raise_for_status()
        return arrival(stack, "AlertmanagerNotificationsFailing")


def quiet() -> float:
    """The control: a healthy service with reads, writes and probes fires no alert."""
    with (
        on_postgres() as (url, _),
        serving(Page(cluster_metrics())) as cluster,
        watched(url, kube_state_metrics=cluster) as stack,
    ):
        end = time.monotonic() + QUIET_SECONDS
        while time.monotonic() < end:
            fetch(url, 20)
            httpx.post(f"{url}/tasks", json={"title": "a task"}).raise_for_status()
            httpx.get(f"{url}/readyz").raise_for_status()
        if others(stack):
            raise NotSeen(f"a healthy service fired {', '.join(sorted(others(stack)))}")
        return QUIET_SECONDS


def run(alert: str, receiver: str, function: Callable[[], float] | None) -> Result:
    """Run one drill."""
    if function is None:
        return Result(alert, "", receiver, problem="it has no drill: write one in monitoring/drills.py")
    cause = (function.__doc__ or "").strip()
    try:
        return Result(alert, cause, receiver, seconds=round(function(), 1))
    except (NotSeen, service.ServiceError, httpx.HTTPError, psycopg.Error) as error:
        return Result(alert, cause, receiver, problem=str(error))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the named drills, or all of them, and write their results."""
    parser = argparse.ArgumentParser(prog="python -m monitoring.drills", description=__doc__)
    parser.add_argument("alert", nargs="*", help="an alert's name; without one, all")
    wanted = parser.parse_args(arguments).alert
    everything = {**expected(), **{alert: "?" for alert in DRILLS if alert not in expected()}}
    if unknown := set(wanted) - set(everything):
        parser.error(f"no alert has the name {', '.join(sorted(unknown))}; the alerts are {', '.join(everything)}")
    console = Console()
    try:
        programs = {name: version(name) for name in ("prometheus", "alertmanager")}
        plan = [(alert, everything[alert], DRILLS.get(alert)) for alert in wanted or everything]
        plan += [] if wanted else [("no alert", "no receiver", quiet)]
        results = []
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for result in pool.map(lambda planned: run(*planned), plan):
                results.append(result)
                report(console, result)
    except MissingTool as error:
        console.print(f"drills: {error}", style="red")
        return 2
    write(results, programs)
    good = sum(not result.problem for result in results)
    console.print(
        f"{good} of {len(results)} drills; reports/monitoring/drills.html",
        style="green" if good == len(results) else "red",
    )
    return 0 if good == len(results) else 1


def report(console: Console, result: Result) -> None:
    """Print the result of a drill in one line."""
    if result.problem:
        console.print(f"[red]FAIL[/] {result.alert}: {result.problem}", soft_wrap=True)
    else:
        console.print(
            f"[green]ok[/]   {result.alert} at {result.receiver} after {result.seconds} s: {result.cause}",
            soft_wrap=True,
        )


def write(results: Sequence[Result], programs: dict[str, str]) -> None:
    """Write the reports, for machines and for people, from the same data."""
    record = {
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "programs": programs,
        "results": [asdict(result) for result in results],
    }
    folder = REPORTS / "monitoring"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "drills.json").write_text(json.dumps(record, indent=2) + "\n")
    template = Path(__file__).parent / "templates" / "drills.html"
    (folder / "drills.html").write_text(render(str(template), **record))


if __name__ == "__main__":
    sys.exit(main())
