"""Every query of every dashboard and rule, and the problems that a running Prometheus reports for one."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import promql_parser as promql
import yaml

from monitoring.dashboards import FOLDER
from monitoring.stack import RULES, Stack

SELECTS = {"==", "!=", "<", ">", "<=", ">=", "and", "or", "unless"}  # operators whose result is empty while all is well
RATES = {"rate", "irate", "increase", "resets"}
ALIKE = {*RATES, "absent", "absent_over_time", "count_over_time"}  # these read a counter without a rate
FAMILY = re.compile(r"_(total|bucket|count|sum)$")
GRAFANA = {"$__rate_interval": "1m", "$__range": "5m", "$instance": ".*"}  # the values that Grafana inserts


@dataclass(frozen=True)
class Query:
    """A query and its place. An alert's query returns nothing while all is well: its parts must return data."""

    place: str
    expression: str
    alert: bool = False

    def parts(self) -> list[str]:
        """Return the expressions that must return data: the query itself, or the operands of an alert's comparisons."""
        return list(operands(promql.parse(self.expression))) if self.alert else [self.expression]


def operands(expression: promql.Expr) -> Iterator[str]:
    """Yield the innermost operands of comparisons and set operators."""
    if isinstance(expression, promql.ParenExpr):
        yield from operands(expression.expr)
    elif isinstance(expression, promql.BinaryExpr) and str(expression.op) in SELECTS:
        yield from operands(expression.lhs)
        yield from operands(expression.rhs)
    elif isinstance(expression, promql.Call) and expression.func.name == "absent":
        yield from operands(expression.args[0])
    elif not isinstance(expression, promql.NumberLiteral):
        yield expression.prettify()


def every() -> list[Query]:
    """Return all queries of the rules and the dashboards."""
    return [*of_rules(), *of_dashboards()]


def of_rules() -> Iterator[Query]:
    """Yield the queries of recording and alerting rules."""
    for path in sorted(RULES.glob("*.yml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                name = rule.get("alert") or f"{rule['record']} {rule.get('labels', {}).get('slo', '')}"
                yield Query(f"{path.stem}: {name.strip()}", rule["expr"], "alert" in rule)


def of_dashboards() -> Iterator[Query]:
    """Yield the queries of panels, variables and annotations."""
    for path in sorted(FOLDER.glob("*.json")):
        board = json.loads(path.read_text())
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                yield Query(f"{path.stem}: {panel['title']} {target['refId']}", plain(target["expr"]))
        for variable in board["templating"]["list"]:
            for selector in re.findall(r"^label_values\((.+), \w+\)$", str(variable.get("query"))):
                yield Query(f"{path.stem}: variable {variable['name']}", selector)
        for annotation in board["annotations"]["list"]:
            yield Query(f"{path.stem}: annotation {annotation['name']}", annotation["expr"])


def plain(expression: str) -> str:
    """Return PromQL with values in place of Grafana's variables."""
    for name, value in GRAFANA.items():
        expression = expression.replace(name, value)
    return expression


def problems(stack: Stack, query: Query) -> list[str]:
    """Return the faults of a query on this Prometheus: no data, warnings of the engine, misread counters."""
    faults = []
    for part in query.parts():
        response = stack.response("query", query=part)
        faults += [f"{part}: {note}" for note in [*response.get("warnings", []), *response.get("infos", [])]]
        result = response["data"]["result"]
        values = [result[1]] if response["data"]["resultType"] == "scalar" else [one["value"][1] for one in result]
        if not any(math.isfinite(float(value)) for value in values):
            faults.append(f"{part}: no data")
    return faults + misread(query.expression, stack.data("metadata"))


def misread(expression: str, metadata: dict[str, Any]) -> list[str]:
    """Return each rate of a metric that is no counter, and each counter that is read without a rate."""
    faults: list[str] = []

    def look(node: promql.Expr, inside: str) -> None:
        if isinstance(node, promql.VectorSelector | promql.MatrixSelector):
            selector = node.vector_selector if isinstance(node, promql.MatrixSelector) else node
            name = selector.name or ""
            kind = next((metadata[key][0]["type"] for key in (name, FAMILY.sub("", name)) if key in metadata), "")
            if inside in RATES and kind not in {"counter", "histogram", "summary"}:
                faults.append(f"{inside} of {name}, which is {kind or 'no metric with a type'}")
            if kind in {"counter", "histogram"} and inside not in ALIKE:
                faults.append(f"{name} is a {kind}, and is read without a rate")
        elif isinstance(node, promql.Call):
            for argument in node.args:
                look(argument, node.func.name)
        elif isinstance(node, promql.BinaryExpr):
            look(node.lhs, inside)
            look(node.rhs, inside)
        elif isinstance(node, promql.AggregateExpr | promql.ParenExpr | promql.UnaryExpr | promql.SubqueryExpr):
            look(node.expr, inside)

    look(promql.parse(expression), "")
    return faults
