"""The Grafana dashboards, as code: `python -m monitoring.dashboards` writes them, `--check` fails where a file differs.

Every query is run against a real Prometheus by monitoring/tests/test_queries.py.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueGraphMode,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    Panel,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from tooling import project
from tooling.project import Service

FOLDER = Path(__file__).parent / "grafana" / "dashboards"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
MAIN = project.service().name
"""The service whose dashboards lie in `FOLDER`, beside those of the cluster and of the monitoring itself."""

DELIVERS = "notifier"
"""The service whose dashboard shows the delivery to webhooks."""

HPA = f'horizontalpodautoscaler="{MAIN}"'
BURN_WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
NO_PROBES = 'endpoint!~"/(health|livez|readyz|metrics)"'
"""The label matcher that leaves probes and scrapes out, as the rules have it."""

LATENCY_OBJECTIVE = 0.25
"""Seconds within which 99 % of requests are answered, as the rules have it."""

LETTERS = "ABCDEFG"  # Grafana identifies a panel's queries by them

PanelBuilder = Builder[Panel]


def query(
    expression: str,
    legend: str = "",
    *,
    exemplar: bool = False,
    instant: bool = False,
    form: PromQueryFormat = PromQueryFormat.TIME_SERIES,
) -> prometheus.Dataquery:
    """Return a query over the dashboard's time range, or with `instant` at its end."""
    built = prometheus.Dataquery().expr(expression).legend_format(legend).exemplar(exemplar).format(form).ref_id("A")
    return built.instant() if instant else built.range()


def steps(*limits: tuple[float | None, str]) -> dashboard.ThresholdsConfig:
    """Return thresholds: each colour holds from its limit up; the first limit is None."""
    return (
        dashboard.ThresholdsConfig()
        .mode(ThresholdsMode.ABSOLUTE)
        .steps([Threshold(value=value, color=colour) for value, colour in limits])
    )


def number(
    title: str, expression: str, unit: str, about: str, *limits: tuple[float | None, str], decimals: int | None = None
) -> stat.Panel:
    """Return a panel of one large number over its history."""
    panel = stat.Panel().title(title).description(about).datasource(SOURCE).unit(unit).height(4).span(4)
    panel = panel.graph_mode(BigValueGraphMode.AREA).thresholds(steps(*(limits or ((None, "blue"),))))
    panel = panel.decimals(decimals) if decimals is not None else panel
    return panel.with_target(query(expression))


def chart(title: str, unit: str, about: str, *queries: prometheus.Dataquery, width: int = 12) -> timeseries.Panel:
    """Return a panel of lines over time, with a legend that shows last and highest value."""
    panel = timeseries.Panel().title(title).description(about).datasource(SOURCE).unit(unit).height(8).span(width)
    panel = panel.min(0).fill_opacity(8).line_width(1.5)
    panel = panel.legend(
        common.VizLegendOptions()
        .display_mode(LegendDisplayMode.TABLE)
        .placement(LegendPlacement.BOTTOM)
        .show_legend(show_legend=True)
        .calcs(["lastNotNull", "max"])
    ).tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    return panel.targets([each.ref_id(letter) for letter, each in zip(LETTERS, queries, strict=False)])


def stacked(panel: timeseries.Panel) -> timeseries.Panel:
    """Stack the areas of a chart."""
    return panel.fill_opacity(40).stacking(common.StackingConfig().mode(StackingMode.NORMAL))


def limited(panel: timeseries.Panel, *limits: tuple[float | None, str]) -> timeseries.Panel:
    """Add limits to a chart."""
    style = common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED)
    return panel.thresholds(steps(*limits)).thresholds_style(style)


def selector(job: str) -> str:
    """Return the label matchers of a service's chosen instances."""
    return f'job="{job}", instance=~"$instance"'


def users(job: str) -> str:
    """Return the label matchers of a service's requests, without probes and scrapes."""
    return f"{selector(job)}, {NO_PROBES}"


def quantile(share: float, job: str, *, by: str = "le") -> str:
    """Return the PromQL of a quantile of the users' latency."""
    series = f"api_request_duration_seconds_bucket{{{users(job)}}}[$__rate_interval]"
    return f"histogram_quantile({share}, sum by ({by}) (rate({series})))"


def ratio(part: str, whole: str) -> str:
    """Return the PromQL of `part` / `whole`: 0 without a series of the part, as for a service that never failed."""
    return f"({part} or vector(0)) / {whole}"


def page(
    uid: str, title: str, about: str, rows: Sequence[tuple[str, Sequence[PanelBuilder]]], *, instances: str = ""
) -> Dashboard:
    """Return a dashboard of titled rows; `instances` names the service whose instances the reader can choose."""
    built = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(about)
        .tags(["service"])
        .readonly()
        .refresh("10s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .link(
            dashboard.DashboardLink("Services")
            .type(DashboardLinkType.DASHBOARDS)
            .tags(["service"])
            .keep_time(keep_time=True)
        )
        .annotation(
            dashboard.AnnotationQuery()
            .name("Alerts")
            .datasource(SOURCE)
            .enable(enable=True)
            .icon_color("red")
            .expr('max by (alertname, severity) (ALERTS{alertstate="firing", alertname!="Watchdog"})')
        )
    )
    if instances:
        built = built.with_variable(
            dashboard.QueryVariable("instance")
            .label("Instance")
            .datasource(SOURCE)
            .query(f'label_values(up{{job="{instances}"}}, instance)')
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(multi=True)
            .include_all(include_all=True)
            .all_value(".*")
        )
    for name, panels in rows:
        built = built.with_row(dashboard.Row(name))
        for panel in panels:
            built = built.with_panel(panel)
    return built.build()


def request_rate(job: str) -> str:
    """Return the PromQL of the users' requests a second."""
    return f"sum(rate(api_requests_total{{{users(job)}}}[$__rate_interval]))"


def failed(job: str) -> str:
    """Return the PromQL of the users' requests a second that are answered with 5xx."""
    return f'sum(rate(api_requests_total{{{users(job)}, status=~"5.."}}[$__rate_interval]))'


def mean(job: str) -> str:
    """Return the PromQL of the users' mean latency."""
    seconds = f"sum(rate(api_request_duration_seconds_sum{{{users(job)}}}[$__rate_interval]))"
    return f"{seconds} / sum(rate(api_request_duration_seconds_count{{{users(job)}}}[$__rate_interval]))"


def overview(service: Service) -> Dashboard:
    """Build a service's dashboard: rate, errors, duration, saturation."""
    title = service.name.replace("-", " ").title().replace("Api", "API")
    rows = [
        ("Now", now(service)),
        ("Rate", rates(service)),
        ("Duration", durations(service)),
        ("Errors", errors(service)),
        ("Saturation", saturation(service)),
    ]
    if service.name == DELIVERS:
        rows[1:1] = [("Webhooks", webhooks(service)), ("Reminders", reminders(service))]
    about = "Rate, errors, duration and saturation of the service."
    return page(service.name, title, about, rows, instances=service.name)


def now(service: Service) -> list[PanelBuilder]:
    """Build the row of the large numbers: the service's present state."""
    job = service.name
    mine = selector(job)
    return [
        number("Requests", request_rate(job), "reqps", "Requests of users, without probes and scrapes.", decimals=1),
        number(
            "Errors",
            ratio(failed(job), request_rate(job)),
            "percentunit",
            "Share of requests answered with 5xx. The objective allows 0.1 %.",
            (None, "green"),
            (0.001, "orange"),
            (0.0144, "red"),
        ),
        number(
            "P95",
            quantile(0.95, job),
            "s",
            "95 % of requests are faster.",
            (None, "green"),
            (0.1, "orange"),
            (LATENCY_OBJECTIVE, "red"),
        ),
        number(
            "In flight",
            f"sum(api_requests_in_flight{{{mine}}})",
            "none",
            "Requests being answered at this moment.",
        ),
        number(
            "Instances up",
            f"sum(up{{{mine}}})",
            "none",
            "Instances that Prometheus can scrape.",
            (None, "red"),
            (1, "green"),
        ),
        number(
            "Versions",
            f"count(count by (version, revision) ({service.package}_build_info{{{mine}}}))",
            "none",
            "How many versions are running: more than one means a rollout is under way, or stuck.",
            (None, "green"),
            (2, "orange"),
        ),
    ]


def webhooks(service: Service) -> list[PanelBuilder]:
    """Build the row of what is delivered to webhooks, and of what waits."""
    mine = selector(service.name)
    return [
        limited(
            chart(
                "Late",
                "s",
                "For how long an attempt has been due. The line is where NotifierQueueOld begins.",
                query(f"max(webhook_due_seconds{{{mine}}})", "due"),
                query(f"max(webhook_oldest_undelivered_seconds{{{mine}}})", "oldest, with those that fail"),
            ),
            (None, "transparent"),
            (60, "red"),
        ),
        chart(
            "Deliveries",
            "ops",
            "Attempts that were taken or failed, dead letters, and webhooks that were disabled.",
            query(f"sum by (result) (rate(webhook_deliveries_total{{{mine}}}[$__rate_interval]))", "{{result}}"),
        ),
        chart(
            "Webhooks",
            "none",
            "Those with something to deliver, and those that are disabled.",
            query(f"max(webhooks_waiting{{{mine}}})", "waiting"),
            query(f"max(webhooks_disabled{{{mine}}})", "disabled"),
        ),
    ]


def reminders(service: Service) -> list[PanelBuilder]:
    """Build the row of the reminders that go out, and of those that wait."""
    mine = selector(service.name)
    return [
        limited(
            chart(
                "Reminders due",
                "s",
                "For how long the oldest has been due that did not go out, or is not mailed. The line is where"
                " NotifierRemindersLate begins.",
                query(f"max by (stage) (reminder_due_seconds{{{mine}}})", "{{stage}}"),
            ),
            (None, "transparent"),
            (60, "red"),
        ),
        chart(
            "Reminders",
            "ops",
            "Those that went out or were dropped, and attempts to mail them; late is more than 60 seconds.",
            query(
                f"sum by (result, late) (rate(reminders_total{{{mine}}}[$__rate_interval]))",
                "{{result}}, late: {{late}}",
            ),
        ),
    ]


def rates(service: Service) -> list[PanelBuilder]:
    """Build the row of request rates."""
    job = service.name
    return [
        stacked(
            chart(
                "Requests by endpoint",
                "reqps",
                "By the route's template.",
                query(
                    f"sum by (endpoint) (rate(api_requests_total{{{users(job)}}}[$__rate_interval]))",
                    "{{endpoint}}",
                ),
            )
        ),
        stacked(
            chart(
                "Requests by status",
                "reqps",
                "Probes and scrapes are not counted.",
                query(f"sum by (status) (rate(api_requests_total{{{users(job)}}}[$__rate_interval]))", "{{status}}"),
            )
        ),
    ]


def durations(service: Service) -> list[PanelBuilder]:
    """Build the row of latencies."""
    job = service.name
    return [
        limited(
            chart(
                "Latency",
                "s",
                "Over all endpoints. The dots are exemplars: requests whose trace can be opened. "
                f"The line is the objective, 99 % within {LATENCY_OBJECTIVE * 1000:.0f} ms.",
                query(mean(job), "mean"),
                query(quantile(0.5, job), "P50"),
                query(quantile(0.95, job), "P95", exemplar=True),
                query(quantile(0.99, job), "P99"),
            ),
            (None, "transparent"),
            (LATENCY_OBJECTIVE, "red"),
        ),
        heatmap.Panel()
        .title("Latency, every request")
        .description("Requests by how long they took.")
        .datasource(SOURCE)
        .height(8)
        .span(12)
        .color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(64))
        .y_axis(heatmap.YAxisConfig().unit("s"))
        .with_target(
            query(
                f"sum by (le) (increase(api_request_duration_seconds_bucket{{{users(job)}}}[$__rate_interval]))",
                "{{le}}",
                form=PromQueryFormat.HEATMAP,
            )
        ),
        chart(
            "P95 by endpoint",
            "s",
            "95 % of the requests to this endpoint are faster.",
            query(quantile(0.95, job, by="le, endpoint"), "{{endpoint}}"),
        ),
        endpoints(job),
    ]


def errors(service: Service) -> list[PanelBuilder]:
    """Build the row of failed and refused requests."""
    job = service.name
    mine = selector(job)
    return [
        limited(
            chart(
                "Error ratio",
                "percentunit",
                "Share of requests answered with 5xx; the line is what the objective allows, 0.1 %.",
                query(ratio(failed(job), request_rate(job)), "5xx"),
            ),
            (None, "transparent"),
            (0.001, "red"),
        ),
        chart(
            "Errors by endpoint",
            "reqps",
            "Requests answered with 5xx.",
            query(
                failed(job).replace("sum", "sum by (endpoint, status) "),
                "{{status}} {{endpoint}}",
            ),
        ),
        chart(
            "Requests refused",
            "reqps",
            "Requests answered with 4xx: the client's fault.",
            query(
                f'sum by (status) (rate(api_requests_total{{{users(job)}, status=~"4.."}}[$__rate_interval]))',
                "{{status}}",
            ),
        ),
        *([refusals(mine)] if service.accounts else []),
    ]


def saturation(service: Service) -> list[PanelBuilder]:
    """Build the row of threads and connections in use."""
    mine = selector(service.name)
    return [
        chart(
            "Requests in flight",
            "none",
            "Against the threads there are. When all are busy, requests wait where no one measures them.",
            query(f"sum by (instance) (api_requests_in_flight{{{mine}}})", "{{instance}}"),
            query(f"sum(api_request_threads{{{mine}}})", "threads, all instances"),
        ),
        *([connections(mine)] if service.database else []),
    ]


def refusals(mine: str) -> timeseries.Panel:
    """Build the chart of requests refused by authentication and by the rate limit."""
    return chart(
        "Authentication and rate limit",
        "reqps",
        "Requests refused for who sent them, by reason, and by the rate limit.",
        query(
            f"sum by (reason) (rate(api_auth_failures_total{{{mine}}}[$__rate_interval]))",
            "{{reason}}",
        ),
        query(f"sum(rate(api_rate_limited_total{{{mine}}}[$__rate_interval]))", "rate limit"),
    )


def connections(mine: str) -> timeseries.Panel:
    """Build the chart of database connections."""
    return chart(
        "Database connections",
        "none",
        "Of all workers; at the size, requests wait for a connection.",
        query(f"sum by (state) (db_pool_connections{{{mine}}})", "{{state}}"),
        query(f"sum(db_pool_size{{{mine}}})", "size"),
    )


def endpoints(job: str) -> table.Panel:
    """Build the table of endpoints over the dashboard's time range."""
    by, labels = "sum by (endpoint) ", users(job)
    requests = f"{by}(rate(api_requests_total{{{labels}}}[$__range]))"
    failures = f'{by}(rate(api_requests_total{{{labels}, status=~"5.."}}[$__range]))'
    columns = {
        "Requests/s": requests,
        "Errors": f"({failures} or 0 * {requests}) / {requests}",
        "Mean": f"{by}(rate(api_request_duration_seconds_sum{{{labels}}}[$__range]))"
        f" / {by}(rate(api_request_duration_seconds_count{{{labels}}}[$__range]))",
        "P95": quantile(0.95, job, by="le, endpoint").replace("$__rate_interval", "$__range"),
    }
    units = {"Errors": "percentunit", "Mean": "s", "P95": "s", "Requests/s": "reqps"}
    names = {f"Value #{letter}": name for letter, name in zip(LETTERS, columns, strict=False)}
    panel = (
        table.Panel().title("Endpoints").description("Over the whole time shown.").datasource(SOURCE).height(8).span(12)
    )
    for letter, (name, expression) in zip(LETTERS, columns.items(), strict=False):
        panel = panel.with_target(query(expression, instant=True, form=PromQueryFormat.TABLE).ref_id(letter))
        panel = panel.override_by_name(name, [DynamicConfigValue(id_val="unit", value=units[name])])
    return (
        panel.with_transformation(DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(
            DataTransformerConfig(
                id_val="organize",
                options={"excludeByName": {"Time": True}, "renameByName": {"endpoint": "Endpoint", **names}},
            )
        )
        .sort_by([common.TableSortByFieldState().display_name("Requests/s").desc(desc=True)])
    )


def objectives() -> Dashboard:
    """Build the dashboard of the service level objectives: how fast the error budgets burn, and what is left."""
    rows: list[tuple[str, Sequence[PanelBuilder]]] = []
    for slo, about in (
        ("availability", "99.9 % of requests are answered without a server error"),
        ("latency", f"99 % of requests are answered within {LATENCY_OBJECTIVE * 1000:.0f} ms"),
    ):
        budget = f'slo:error_budget:ratio{{slo="{slo}"}}'
        spent = f'slo:error:ratio14d{{job="{MAIN}", slo="{slo}"}} / on (slo) {budget}'
        burn = [
            query(f'slo:error:ratio{window}{{job="{MAIN}", slo="{slo}"}} / on (slo) {budget}', window)
            for window in BURN_WINDOWS
        ]
        rows.append(
            (
                f"{slo.title()}: {about}",
                [
                    number(
                        "Budget left",
                        f"1 - {spent}",
                        "percentunit",
                        "Of the last 14 days' error budget (Prometheus keeps 15). Below 0, the objective is missed.",
                        (None, "red"),
                        (0, "orange"),
                        (0.25, "green"),
                    ).height(9),
                    number(
                        "Errors, last hour",
                        f'slo:error:ratio1h{{job="{MAIN}", slo="{slo}"}}',
                        "percentunit",
                        "Share of the requests of the last hour that missed the objective.",
                    ).height(9),
                    limited(
                        chart(
                            "Burn rate",
                            "none",
                            "1 spends exactly the budget in 30 days. Pages: 14.4 over 1h and 5m, 6 over 6h and 30m. "
                            "Tickets: 3 over 1d and 2h, 1 over 3d and 6h.",
                            *burn,
                            width=16,
                        ).height(9),
                        (None, "transparent"),
                        (1, "yellow"),
                        (6, "orange"),
                        (14.4, "red"),
                    ),
                ],
            )
        )
    firing = (
        table.Panel()
        .title("Alerts")
        .description("Pending and firing now.")
        .datasource(SOURCE)
        .height(8)
        .span(24)
        .with_target(
            query(
                "max by (alertname, alertstate, severity, instance) (ALERTS)",
                instant=True,
                form=PromQueryFormat.TABLE,
            )
        )
        .with_transformation(
            DataTransformerConfig(id_val="organize", options={"excludeByName": {"Time": True, "Value": True}})
        )
    )
    rows.append(("Alerts", [firing]))
    return page("task-api-slo", "Task API: objectives", "How fast the error budgets burn.", rows)


def kubernetes() -> Dashboard:
    """Build the dashboard of the cluster's side: the autoscaler, the pods it moves, and the backups."""
    restarts = 'kube_pod_container_status_restarts_total{container="task-api"}'
    return page(
        "task-api-kubernetes",
        "Task API: autoscaling",
        "The HorizontalPodAutoscaler, its pods, and the backups, from kube-state-metrics.",
        [
            (
                "Autoscaler",
                [
                    chart(
                        "Pods",
                        "none",
                        "Desired is the autoscaler's target, current the Deployment's number of pods.",
                        query(f"kube_horizontalpodautoscaler_status_desired_replicas{{{HPA}}}", "desired"),
                        query(f"kube_horizontalpodautoscaler_status_current_replicas{{{HPA}}}", "current"),
                        query('kube_deployment_status_replicas_available{deployment="task-api"}', "available"),
                        query(f"kube_horizontalpodautoscaler_spec_min_replicas{{{HPA}}}", "minimum"),
                        query(f"kube_horizontalpodautoscaler_spec_max_replicas{{{HPA}}}", "maximum"),
                    ),
                    chart(
                        "Use of what pods request",
                        "percent",
                        "What the autoscaler sees, against its targets: above a target it adds pods.",
                        query(
                            f"kube_horizontalpodautoscaler_status_target_metric{{{HPA}"
                            ', metric_target_type="utilization"}',
                            "{{metric_name}}",
                        ),
                        query(
                            f"kube_horizontalpodautoscaler_spec_target_metric{{{HPA}"
                            ', metric_target_type="utilization"}',
                            "{{metric_name}}, target",
                        ),
                    ),
                    chart(
                        "Conditions",
                        "none",
                        "1 where it holds. ScalingLimited: the autoscaler wants more or fewer pods than it may have. "
                        "ScalingActive should hold: else it cannot read its metrics.",
                        query(
                            f'kube_horizontalpodautoscaler_status_condition{{{HPA}, status="true"}}',
                            "{{condition}}",
                        ),
                    ),
                    chart(
                        "Requests a pod",
                        "reqps",
                        "The load that each pod carries.",
                        query(
                            f'sum by (pod) (rate(api_requests_total{{job="task-api", {NO_PROBES}}}[$__rate_interval]))',
                            "{{pod}}",
                        ),
                    ),
                ],
            ),
            (
                "Pods",
                [
                    stacked(
                        chart(
                            "Pods by phase",
                            "none",
                            "Pods of the service and its jobs.",
                            query('sum by (phase) (kube_pod_status_phase{pod=~"task-api-.*"})', "{{phase}}"),
                        )
                    ),
                    chart(
                        "Restarts",
                        "none",
                        "Restarts of containers within 15 minutes.",
                        query(f"sum by (pod) (increase({restarts}[15m]))", "{{pod}}"),
                    ),
                ],
            ),
            (
                "Backups",
                [
                    limited(
                        chart(
                            "Since the last backup",
                            "s",
                            "Time since a backup of the database last succeeded, or since the CronJob is there; "
                            "one is made each night.",
                            query(
                                'time() - (kube_cronjob_status_last_successful_time{cronjob="task-api-backup"}'
                                ' or kube_cronjob_created{cronjob="task-api-backup"})',
                                "age",
                            ),
                        ),
                        (None, "green"),
                        (26 * 3600, "red"),
                    ),
                ],
            ),
        ],
    )


def monitoring() -> Dashboard:
    """Build the dashboard of the monitoring itself."""
    return page(
        "task-api-monitoring",
        "Task API: monitoring itself",
        "Whether Prometheus and Alertmanager do their work.",
        [
            (
                "Prometheus",
                [
                    chart(
                        "Targets up", "none", "1 where the last scrape worked.", query("min by (job) (up)", "{{job}}")
                    ),
                    chart(
                        "Scrape duration",
                        "s",
                        "Time to scrape each job.",
                        query("max by (job) (scrape_duration_seconds)", "{{job}}"),
                    ),
                    chart(
                        "Rule evaluation",
                        "s",
                        "Time to evaluate each group of rules; it has 10 s.",
                        query(
                            "max by (group) (label_replace("
                            'prometheus_rule_group_last_duration_seconds, "group", "$1", "rule_group", ".*;(.*)"))',
                            "{{group}}",
                        ),
                    ),
                    chart(
                        "Series",
                        "none",
                        "Series in memory: they grow when a label is not bounded.",
                        query("prometheus_tsdb_head_series", "series"),
                    ),
                ],
            ),
            (
                "Alertmanager",
                [
                    chart(
                        "Notifications",
                        "none",
                        "Sent and failed within 5 minutes.",
                        query("sum(increase(alertmanager_notifications_total[5m]))", "sent"),
                        query("sum(increase(alertmanager_notifications_failed_total[5m]))", "failed"),
                    ),
                    chart(
                        "Alerts held",
                        "none",
                        "Alerts by state.",
                        query("sum by (state) (alertmanager_alerts)", "{{state}}"),
                    ),
                ],
            ),
        ],
    )


def folder_of(service: Service) -> Path:
    """Return the path of a service's dashboard: in `FOLDER` for the main service, else in the service's folder."""
    return FOLDER if service.name == MAIN else service.folder / "monitoring" / "dashboards"


def text(built: Dashboard) -> str:
    """Return the content of a dashboard's file."""
    return json.dumps(built, cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def generated() -> dict[Path, str]:
    """Return the text of each dashboard's file."""
    files = {FOLDER / f"{built.uid}.json": text(built) for built in (objectives(), kubernetes(), monitoring())}
    return files | {folder_of(one) / f"{one.name}.json": text(overview(one)) for one in project.services()}


def present() -> list[Path]:
    """Return the existing files of dashboards."""
    return sorted(file for folder in {FOLDER, *map(folder_of, project.services())} for file in folder.glob("*.json"))


def drift() -> list[str]:
    """Return the names of files that differ from the code, are missing, or are left over."""
    wanted = generated()
    written = {path: path.read_text() for path in present()}
    return sorted(path.name for path in wanted.keys() | written.keys() if wanted.get(path) != written.get(path))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files, or with --check name those that differ and exit 1."""
    parser = argparse.ArgumentParser(prog="python -m monitoring.dashboards", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a file differs")
    if parser.parse_args(arguments).check:
        different = drift()
        for name in different:
            print(
                f"{name} differs from monitoring/dashboards.py: run `python -m monitoring.dashboards`", file=sys.stderr
            )
        return 1 if different else 0
    for path in present():
        path.unlink()
    for path, content in generated().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
