"""The gate: a flight record is held against objectives, and the verdict is pass, fail or inconclusive.

A verdict is pass or fail only where the measurement supports it. Latencies come with a 95 % interval by bootstrap over
the run's seconds, error rates with the exact binomial one; a limit inside the interval decides nothing.
"""

import enum
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
from scipy.special import betaincinv

from locust_verdict import histogram
from locust_verdict.objectives import GeneratorLimits, Limits, Objectives
from locust_verdict.record import Durations, Entry, Event, Requests, Run, Sample

RESAMPLES = 999
MOST_BLOCKS = 200
PERCENTILES = {"p50_ms": 50.0, "p95_ms": 95.0, "p99_ms": 99.0}
SERVER_PERCENT = 95
MOST_SLOW, LEAST_GAP = 0.5, 0.4
"""Shares of requests within their limit. A slow machine slows all endpoints: one with less than the first, while
another has more than it by the second, is not excused."""


class Outcome(enum.StrEnum):
    """What came of an objective, or of all. `EXCUSED`: missed on a slow machine, where the ratio decides instead."""

    PASS = "pass"  # a verdict
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    EXCUSED = "excused"


EXIT_CODES = {Outcome.PASS: 0, Outcome.FAIL: 1, Outcome.INCONCLUSIVE: 2}


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One objective held against what was measured. `low` and `high` bound the 95 % interval."""

    endpoint: str
    objective: str
    limit: float
    outcome: Outcome
    measured: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured of one endpoint: milliseconds; `intended_` counts from the intended start (open loop)."""

    endpoint: str
    requests: int
    failures: int
    per_second: float
    p50: float
    p95: float
    p99: float
    intended_p50: float | None = None
    intended_p95: float | None = None
    intended_p99: float | None = None


class GateResult(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a run with its reasons, and the objectives and summaries that it follows from."""

    outcome: Outcome
    reasons: list[str]
    checks: list[Check]
    summaries: list[Summary]

    @property
    def exit_code(self) -> int:
        """0 pass, 1 fail, 2 inconclusive."""
        return EXIT_CODES[self.outcome]

    @property
    def text(self) -> str:
        """The reasons, or how many objectives hold and how many were missed and excused."""
        if self.reasons:
            return "; ".join(self.reasons)
        if excused := sum(check.outcome is Outcome.EXCUSED for check in self.checks):
            held = len(self.checks) - excused
            return f"{held} of {len(self.checks)} objectives hold, {excused} missed and excused: this machine is slow"
        return "every objective holds"


class Measured:
    """The requests of a record's last run without its warm-up, by endpoint and block of time.

    A block is a second, or as many as keep a long run's blocks at two hundred; the bootstrap draws blocks.
    """

    def __init__(self, entries: Iterable[Entry], warmup: float = 0) -> None:
        self.entries = _last_run(entries)
        requests = [entry for entry in self.entries if isinstance(entry, Requests)]
        self.start = min((entry.at for entry in requests), default=0) + warmup
        kept = [entry for entry in requests if entry.at >= self.start]
        last = max((entry.at for entry in kept), default=self.start - 1)
        self.length = last - min((entry.at for entry in kept), default=last) + 1  # seconds
        width = max(math.ceil(self.length / MOST_BLOCKS), 1)
        decoded = [
            (target, entry.endpoint, int(entry.at - self.start) // width, histogram.decode(encoded))
            for entry in kept
            for target, encoded in (("latency", entry.latency), ("intended", entry.intended))
            if encoded
        ]
        used = np.zeros(len(histogram.MILLISECONDS), dtype=bool)
        for *_, counts in decoded:
            used |= counts > 0
        self.milliseconds = histogram.MILLISECONDS[used]
        self._shape = (int(last - self.start) // width + 1, len(self.milliseconds))
        self.failures: dict[str, int] = defaultdict(int)
        for entry in kept:
            self.failures[entry.endpoint] += entry.failures
        self.latency: dict[str, histogram.Counts] = defaultdict(self._empty)
        self.intended: dict[str, histogram.Counts] = defaultdict(self._empty)
        for target, endpoint, block, counts in decoded:
            (self.intended if target == "intended" else self.latency)[endpoint][block] += counts[used]

    def _empty(self) -> histogram.Counts:
        return np.zeros(self._shape, dtype=np.int64)

    def judged(self, endpoint: str | None) -> histogram.Counts:
        """Return an endpoint's (None: all endpoints') counts by block, from the intended start in open-loop runs."""
        source = self.intended or self.latency
        if endpoint is not None:
            return source.get(endpoint, self._empty())
        total: histogram.Counts = sum(source.values(), self._empty())
        return total

    def ended(self, endpoint: str) -> int:
        """Return how many requests to an endpoint (`all`: to any) have ended, with an intended start or without."""
        return int(sum(counts.sum() for name, counts in self.latency.items() if endpoint in {name, "all"}))

    def summaries(self) -> list[Summary]:
        """Sum up each endpoint, both ways of counting latency, and all together."""
        endpoints = sorted(self.latency)
        failures = {**self.failures, "all": sum(self.failures.values())}
        results = []
        for endpoint in [*endpoints, "all"] if endpoints else []:
            names = endpoints if endpoint == "all" else [endpoint]
            percentiles: dict[str, float] = {}
            for prefix, source in (("", self.latency), ("intended_", self.intended)):
                counts = sum((source[name].sum(axis=0) for name in names if name in source), self._empty()[0])
                if counts.any():
                    values = {p: histogram.percentile(counts, p, self.milliseconds) for p in (50, 95, 99)}
                    percentiles |= {f"{prefix}p{p}": value for p, value in values.items()}
            number = self.ended(endpoint)
            results.append(
                Summary(
                    endpoint=endpoint,
                    requests=number,
                    failures=failures[endpoint],
                    per_second=number / self.length,
                    **percentiles,
                )
            )
        return results

    def server(self) -> dict[str, dict[float, int]]:
        """Return the service's own counts by bucket bound, from the first reading after the warm-up to the last."""
        readings: dict[str, list[Durations]] = defaultdict(list)
        for entry in self.entries:
            if isinstance(entry, Durations) and entry.at >= self.start:
                readings[entry.endpoint].append(entry)
        return {
            endpoint: {
                float(bound): count - results[0].buckets.get(bound, 0) for bound, count in results[-1].buckets.items()
            }
            for endpoint, results in readings.items()
        }

    def saturated(self, limits: GeneratorLimits) -> str:
        """Return why the load generator could not measure, for half of the time or longer; empty: it could."""

        def median(series: str) -> float:
            samples = [entry for entry in self.entries if isinstance(entry, Sample) and entry.at >= self.start]
            return float(np.median([sample.value for sample in samples if sample.series == series] or [0]))

        cpu, lag = median("generator CPU"), median("generator lag P95")
        if cpu > limits.cpu_percent:
            return f"the load generator was saturated: it used {cpu:.0f} % of a CPU, more than {limits.cpu_percent:g} %"
        if lag > limits.lag_p95_ms:
            return (
                f"the machine was too busy to measure on: the load generator, using {cpu:.0f} % of a CPU, woke "
                f"{lag:.0f} ms late (P95), more than {limits.lag_p95_ms:g} ms"
            )
        return ""


def _last_run(entries: Iterable[Entry]) -> Sequence[Entry]:
    kept: list[Entry] = []
    for entry in entries:
        if isinstance(entry, Run):
            kept = []
        kept.append(entry)
    return kept


def redraws(places: int, number: int, source: np.random.Generator) -> histogram.Counts:
    """Return how often each place was drawn, for each of `number` draws with replacement among `places`."""
    return source.multinomial(places, [1 / places] * places, size=number)


def interval(blocks: int, statistic: Callable[[histogram.Counts], histogram.Milliseconds]) -> tuple[float, float]:
    """Return a statistic's 95 % interval by bootstrap: `statistic` maps redraws of the blocks to a value for each."""
    if blocks < 2:  # noqa: PLR2004 - one block does not show how blocks differ
        return 0.0, float("inf")
    values = statistic(redraws(blocks, RESAMPLES, np.random.default_rng(1)))
    low, high = np.quantile(values, [0.025, 0.975], method="inverted_cdf")
    return float(low), float(high)


def binomial_interval(count: int, number: int) -> tuple[float, float]:
    """Return the exact 95 % interval of the share `count` / `number`, from 0 to 1 (Clopper and Pearson, 1934).

    It is that of `scipy.stats.binomtest`, whose import takes a second.
    """
    low = betaincinv(count, number - count + 1, 0.025) if count else 0.0
    high = betaincinv(count + 1, number - count, 0.975) if count < number else 1.0
    return float(low), float(high)


def _decide(low: float, high: float, limit: float) -> Outcome:
    if high <= limit:
        return Outcome.PASS
    return Outcome.FAIL if low > limit else Outcome.INCONCLUSIVE


def judge(objectives: Objectives, entries: Iterable[Entry]) -> GateResult:
    """Hold a record against objectives."""
    measured = Measured(entries, objectives.warmup_seconds)
    judge_ = _Judge(objectives, measured)
    checks = [check for endpoint, limits in objectives.endpoints.items() for check in judge_.endpoint(endpoint, limits)]
    checks += judge_.endpoint(None, objectives.all)
    reasons = [f"{check.endpoint}: {check.reason}" for check in checks if check.outcome is Outcome.FAIL]
    reasons += [
        f"{check.endpoint}: {check.reason}"
        for check in checks
        if check.outcome is Outcome.INCONCLUSIVE and check.reason
    ]
    errors = [entry.text for entry in measured.entries if isinstance(entry, Event) and entry.kind == "error"]
    reasons += [f"the load test itself failed: {text}" for text in dict.fromkeys(errors)]
    outcomes = {check.outcome for check in checks}
    if Outcome.FAIL in outcomes:
        outcome = Outcome.FAIL
    elif Outcome.INCONCLUSIVE in outcomes or errors:
        outcome = Outcome.INCONCLUSIVE
    else:
        outcome = Outcome.PASS
    return GateResult(
        outcome=outcome, reasons=list(dict.fromkeys(reasons)), checks=checks, summaries=measured.summaries()
    )


class _Judge:
    """Holds the requests of one run against limits."""

    def __init__(self, objectives: Objectives, measured: Measured) -> None:
        self._measured = measured
        self._saturated = measured.saturated(objectives.generator)
        self._server = measured.server()
        self._endpoints = objectives.endpoints
        yardstick = objectives.yardstick
        self._yardstick_endpoint = yardstick.endpoint if yardstick else ""
        self._yardstick = measured.judged(self._yardstick_endpoint)
        self._slow = ""
        if yardstick and self._yardstick.any():
            p95 = histogram.percentile(self._yardstick.sum(axis=0), 95, measured.milliseconds)
            if p95 > yardstick.slow_p95_ms:
                self._slow = f"slow machine: P95 of {yardstick.endpoint} is {p95:.1f} ms, not {yardstick.slow_p95_ms:g}"
                if p95 > yardstick.useless:
                    self._saturated = self._saturated or f"too slow to measure on: {self._slow}"

    def endpoint(self, endpoint: str | None, limits: Limits) -> list[Check]:
        """Hold one endpoint (None: all together) against its limits."""
        name = endpoint or "all"
        counts = self._measured.judged(endpoint)
        number = int(counts.sum())
        requested = {
            field: getattr(limits, field) for field in limits.__struct_fields__ if getattr(limits, field) is not None
        }
        requested.pop("min_requests")
        if number < (needed := max(limits.min_requests, 1)):
            few = f"too few requests: {number}, at least {needed} are needed"
            checks = [self._check(name, "min_requests", needed, Outcome.INCONCLUSIVE, number, reason=few)]
            if "error_percent" in requested and number:
                checks.append(self._errors(name, requested["error_percent"], number))
            return checks
        checks = [self._check(name, "min_requests", limits.min_requests, Outcome.PASS, number)]
        for objective, limit in requested.items():
            if objective == "error_percent":
                checks.append(self._errors(name, limit, number))
            elif objective == "min_per_second":
                checks.append(self._throughput(name, limit, number))
            elif objective == "server_p95_ms":
                checks.append(self._server_side(name, limit, excusable=limits.p95_ratio is not None))
            elif objective == "p95_ratio":
                checks.append(self._ratio(name, counts, limit))
            else:
                excusable = limits.p95_ratio is not None
                checks.append(self._latency(name, objective, counts, limit, excusable=excusable))
        return checks

    def _check(
        self, endpoint: str, objective: str, limit: float, outcome: Outcome, measured: float | None, **more: Any
    ) -> Check:
        return Check(endpoint=endpoint, objective=objective, limit=limit, outcome=outcome, measured=measured, **more)

    def _latency(
        self, endpoint: str, objective: str, counts: histogram.Counts, limit: float, *, excusable: bool
    ) -> Check:
        percent = PERCENTILES[objective]
        milliseconds = self._measured.milliseconds
        value = histogram.percentile(counts.sum(axis=0), percent, milliseconds)
        low, high = interval(len(counts), lambda drawn: histogram.percentiles(drawn @ counts, percent, milliseconds))
        figures = f"P{percent:g} is {value:.2f} ms ({low:.2f} to {high:.2f}), the limit {limit:g}"
        return self._timed(endpoint, objective, limit, value, bounds=(low, high), figures=figures, excusable=excusable)

    def _ratio(self, endpoint: str, counts: histogram.Counts, limit: float) -> Check:
        yardstick = self._yardstick
        if not yardstick.any():
            reason = "the yardstick got no requests, so there is no ratio"
            return self._check(endpoint, "p95_ratio", limit, Outcome.INCONCLUSIVE, None, reason=reason)

        milliseconds = self._measured.milliseconds

        def ratio(drawn: histogram.Counts) -> histogram.Milliseconds:
            own, other = (histogram.percentiles(drawn @ rows, 95, milliseconds) for rows in (counts, yardstick))
            return own / other

        value = float(ratio(np.ones((1, len(counts)), dtype=np.int64))[0])
        low, high = interval(len(counts), ratio)
        figures = f"P95 is {value:.2f} times the yardstick's ({low:.2f} to {high:.2f}), the limit {limit:g}"
        return self._timed(endpoint, "p95_ratio", limit, value, bounds=(low, high), figures=figures)

    def _timed(
        self,
        endpoint: str,
        objective: str,
        limit: float,
        value: float,
        *,
        bounds: tuple[float, float],
        figures: str,
        excusable: bool = False,
    ) -> Check:
        low, high = bounds
        outcome = _decide(low, high, limit)
        reason = "" if outcome is Outcome.PASS else figures
        if outcome is Outcome.INCONCLUSIVE:
            reason = f"too noisy to decide: {figures}"
        if self._saturated:
            outcome, reason = Outcome.INCONCLUSIVE, self._saturated
        elif outcome is not Outcome.PASS and self._slow and objective != "p95_ratio":
            if peer := self._fast_peer(endpoint, objective):
                outcome = Outcome.FAIL
                reason = f"{figures}; {peer} mostly held its limit in the same run, so it is not the machine"
            else:
                outcome = Outcome.EXCUSED if excusable else Outcome.INCONCLUSIVE
                reason = f"{self._slow}; {figures}"
        return self._check(endpoint, objective, limit, outcome, value, low=low, high=high, reason=reason)

    def _server_side(self, endpoint: str, limit: float, *, excusable: bool) -> Check:
        buckets = self._server.get(endpoint, {})
        within, total = buckets.get(limit / 1000), buckets.get(float("inf"), 0)
        if within is None or total <= 0:
            have = ", ".join(f"{bound * 1000:g}" for bound in sorted(buckets) if bound != float("inf"))
            reason = "the service's own histogram was not read, or counted nothing"
            if have and total > 0:
                reason = f"the service's histogram has no bucket of {limit:g} ms but {have}"
            return self._check(endpoint, "server_p95_ms", limit, Outcome.INCONCLUSIVE, None, reason=reason)
        low, high = (100 * bound for bound in binomial_interval(min(within, total), total))
        share = 100 * within / total
        figures = f"{share:.1f} % ({low:.1f} to {high:.1f}) took at most {limit:g} ms in the service, 95 % have to"
        bounds = (100 - high, 100 - low)
        check = self._timed(
            endpoint,
            "server_p95_ms",
            100 - SERVER_PERCENT,
            _quantile(buckets),
            bounds=bounds,
            figures=figures,
            excusable=excusable,
        )
        return msgspec.structs.replace(check, limit=limit, low=None, high=None, reason=check.reason or figures)

    def _fast_peer(self, endpoint: str, objective: str) -> str:
        """Return another endpoint that mostly held its limit where this one mostly missed it; empty: there is none."""
        if endpoint not in self._endpoints or (most := self._share(endpoint, objective)[1]) >= MOST_SLOW:
            return ""
        peers = self._endpoints.keys() - {endpoint, self._yardstick_endpoint}
        return next((other for other in sorted(peers) if self._share(other, objective)[0] > most + LEAST_GAP), "")

    def _share(self, endpoint: str, objective: str) -> tuple[float, float]:
        """Return the interval of the share of an endpoint's requests within its limit; 0 to 1: not known."""
        limit = getattr(self._endpoints[endpoint], objective)
        if limit is None:
            return 0, 1
        if objective == "server_p95_ms":
            buckets = self._server.get(endpoint, {})
            within, total = buckets.get(limit / 1000, 0), max(buckets.get(math.inf, 0), 0)
        else:
            counts = self._measured.judged(endpoint).sum(axis=0)
            within, total = int(counts[self._measured.milliseconds <= limit].sum()), int(counts.sum())
        return binomial_interval(min(within, total), total)

    def _errors(self, endpoint: str, limit: float, number: int) -> Check:
        failures = self._measured.failures
        failed = sum(failures.values()) if endpoint == "all" else failures[endpoint]
        number = max(number, self._measured.ended(endpoint))  # one before a user's first intended start may fail too
        low, high = (100 * bound for bound in binomial_interval(failed, number))
        value = 100 * failed / number
        outcome = _decide(low, high, limit) if limit else (Outcome.FAIL if failed else Outcome.PASS)
        figures = f"{failed} of {number} requests failed, {value:.2f} % ({low:.2f} to {high:.2f}), the limit {limit:g}"
        if outcome is Outcome.INCONCLUSIVE:
            figures = f"too few requests to decide: {figures}"
        reason = "" if outcome is Outcome.PASS else figures
        return self._check(endpoint, "error_percent", limit, outcome, value, low=low, high=high, reason=reason)

    def _throughput(self, endpoint: str, limit: float, number: int) -> Check:
        value = number / self._measured.length
        outcome = Outcome.PASS if value >= limit else Outcome.FAIL
        reason = "" if value >= limit else f"{value:.1f} requests a second, the least is {limit:g}"
        if self._saturated and outcome is Outcome.FAIL:
            outcome, reason = Outcome.INCONCLUSIVE, self._saturated
        return self._check(endpoint, "min_per_second", limit, outcome, value, reason=reason)


def _quantile(buckets: dict[float, int]) -> float:
    """Return the server-side P95 in milliseconds, interpolated within its bucket as Prometheus does."""
    rank, lower, below = buckets[float("inf")] * SERVER_PERCENT / 100, 0.0, 0
    for bound in sorted(buckets):
        if buckets[bound] >= rank:
            break
        lower, below = bound, buckets[bound]
    if bound == float("inf"):
        return 1000 * lower
    return 1000 * (lower + (bound - lower) * (rank - below) / (buckets[bound] - below))
