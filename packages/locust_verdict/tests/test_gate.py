"""Verdicts: pass and fail where the measurement carries it, inconclusive with the reason where it does not."""

import math

import msgspec
import pytest

from locust_verdict import histogram
from locust_verdict.gate import Check, GateResult, Measured, Outcome, binomial_interval, interval, judge
from locust_verdict.objectives import GeneratorLimits, Limits, Objectives, Yardstick
from locust_verdict.record import Durations, Entry, Event, Requests, Run, Sample
from locust_verdict.testing import START, encoded, make_run

READ = "GET /tasks"
LIVEZ = "GET /livez"
ERRORS = Limits(error_percent=1)


def objectives(read: Limits, **more: object) -> Objectives:
    return msgspec.convert({"all": ERRORS, "endpoints": {READ: read}, "warmup_seconds": 2, **more}, Objectives)


def with_yardstick(read: Limits) -> Objectives:
    return objectives(read, yardstick=Yardstick(LIVEZ, slow_p95_ms=3))


def outcome_of(verdict: GateResult, objective: str) -> Outcome:
    return next(check.outcome for check in verdict.checks if check.objective == objective and check.endpoint == READ)


def test_a_quick_service_passes() -> None:
    verdict = judge(objectives(Limits(p50_ms=7, p95_ms=12, p99_ms=15)), make_run({READ: 5}))
    assert (verdict.outcome, verdict.exit_code, verdict.reasons) == (Outcome.PASS, 0, [])


def test_a_slow_endpoint_fails_and_is_named_with_its_interval() -> None:
    verdict = judge(objectives(Limits(p95_ms=12)), make_run({READ: 20, "POST /tasks": 5}))
    assert verdict.exit_code == 1
    assert verdict.reasons[0].startswith("GET /tasks: P95 is 3")
    assert "the limit 12" in verdict.reasons[0]


def run_of(*seconds: list[float], endpoint: str = READ, start: float = START) -> list[Entry]:
    """Return a run with these latencies, in milliseconds, in its seconds."""
    return [Requests(start + place, endpoint, 0, encoded(each)) for place, each in enumerate(seconds)]


def test_requests_without_an_intended_start_fail_too() -> None:
    starts = [19, 20, 20, 20, 20]
    run = [Requests(START + at, READ, 20, encoded([1] * 20), encoded([1] * late)) for at, late in enumerate(starts)]
    check = checked(Limits(error_percent=5), [*run], "error_percent")
    assert (check.outcome, check.measured) == (Outcome.FAIL, 100)


def checked(limits: Limits, entries: list[Entry], objective: str, **more: object) -> Check:
    judged = objectives(limits, **{"warmup_seconds": 0, **more})
    return next(one for one in judge(judged, entries).checks if (one.endpoint, one.objective) == (READ, objective))


def test_a_limit_at_an_end_of_the_interval_passes_at_the_upper_one_alone() -> None:
    steady = run_of(*[[5.0] * 20] * 10)
    least = checked(Limits(p95_ms=100), steady, "p95_ms")
    assert least.low == least.measured == least.high
    assert checked(Limits(p95_ms=least.high), steady, "p95_ms").outcome is Outcome.PASS
    jumping = run_of(*[[5.0] * 20] * 38, *[[50.0] * 20] * 2)
    wide = checked(Limits(p95_ms=100), jumping, "p95_ms")
    assert (wide.low, wide.high) == pytest.approx((5, 50), rel=0.01)
    assert checked(Limits(p95_ms=wide.low), jumping, "p95_ms").outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize(("seconds", "blocks"), [(1, 1), (30, 30), (200, 200), (201, 101), (400, 200)])
def test_a_block_is_a_second_or_as_many_as_leave_two_hundred(seconds: int, blocks: int) -> None:
    measured = Measured(run_of(*[[5.0]] * seconds))
    assert (measured.length, len(measured.judged(None)), len(measured.milliseconds)) == (seconds, blocks, 1)


def test_one_block_bounds_nothing_and_two_do() -> None:
    assert interval(1, lambda drawn: drawn[:, 0].astype(float)) == (0, math.inf)
    assert interval(2, lambda drawn: drawn[:, 0].astype(float)) == (0, 2)


def test_a_summary_has_the_percentiles_of_an_endpoint_and_of_all() -> None:
    run = [*run_of(*[[float(n) for n in range(1, 101)]] * 4), *run_of([500.0] * 100, endpoint=LIVEZ)]
    one, read, everything = judge(Objectives(all=ERRORS, warmup_seconds=0), run).summaries
    assert (one.endpoint, one.requests) == (LIVEZ, 100)
    assert one.p50 == pytest.approx(500, rel=0.01)
    assert (read.requests, read.failures, read.per_second) == (400, 0, 100)
    assert (read.p50, read.p95, read.p99) == pytest.approx((50, 95, 99), rel=0.002)
    assert (everything.endpoint, everything.requests, everything.per_second) == ("all", 500, 125)
    assert everything.p50 == pytest.approx(63, rel=0.002)


@pytest.mark.parametrize(("number", "enough"), [(99, False), (100, True)])
def test_as_many_requests_as_needed_are_enough(number: int, *, enough: bool) -> None:
    check = checked(Limits(p95_ms=100), run_of([5.0] * number), "min_requests")
    assert (check.outcome is Outcome.PASS) is enough
    assert check.limit == 100


def test_one_request_is_enough_where_none_is_needed() -> None:
    assert checked(Limits(min_requests=0), run_of([5.0]), "min_requests").outcome is Outcome.PASS


@pytest.mark.parametrize(("limit", "outcome"), [(0, Outcome.FAIL), (1, Outcome.INCONCLUSIVE), (None, None)])
def test_errors_are_judged_in_too_few_requests_too(limit: float | None, outcome: Outcome | None) -> None:
    run = make_run({READ: 5}, seconds=1, per_second=50, failures=1)
    checks = judge(objectives(Limits(error_percent=limit), warmup_seconds=0), run).checks
    assert [one.outcome for one in checks if (one.endpoint, one.objective) == (READ, "error_percent")] == (
        [outcome] if outcome else []
    )


def test_a_limit_inside_the_interval_is_inconclusive() -> None:
    run = make_run({READ: 5})
    outcome = judge(objectives(Limits(p95_ms=100)), run)
    p95 = next(check.measured for check in outcome.checks if check.objective == "p95_ms")
    verdict = judge(objectives(Limits(p95_ms=p95)), run)
    assert verdict.exit_code == 2
    assert "too noisy to decide" in verdict.reasons[0]


def test_one_per_cent_of_errors_fails_a_limit_of_a_tenth() -> None:
    run = make_run({READ: 5}, seconds=60, per_second=20, failures=12)
    verdict = judge(objectives(Limits(error_percent=0.1)), run)
    assert verdict.exit_code == 1
    assert verdict.reasons[0] == ("GET /tasks: 12 of 1160 requests failed, 1.03 % (0.54 to 1.80), the limit 0.1")


def test_no_error_in_few_requests_does_not_prove_a_low_rate() -> None:
    verdict = judge(objectives(Limits(error_percent=0.1)), make_run({READ: 5}, seconds=20, per_second=10))
    assert verdict.exit_code == 2
    assert "too few requests to decide: 0 of 180 requests failed" in verdict.reasons[0]


@pytest.mark.parametrize(
    ("count", "number", "low", "high"),
    [(0, 10, 0, 0.3084971), (3, 10, 0.0667395, 0.6524529), (10, 10, 0.6915029, 1), (999, 1000, 0.9944411, 0.9999747)],
)
def test_the_interval_of_a_share_is_clopper_and_pearsons(count: int, number: int, low: float, high: float) -> None:
    assert binomial_interval(count, number) == pytest.approx((low, high), abs=1e-7)


def test_one_error_fails_a_limit_of_zero() -> None:
    verdict = judge(objectives(Limits(error_percent=0)), make_run({READ: 5}, failures=1))
    assert outcome_of(verdict, "error_percent") is Outcome.FAIL


@pytest.mark.parametrize("entries", [[], [Run(START, "no request")]])
def test_zero_requests_never_pass(entries: list[Entry]) -> None:
    verdict = judge(Objectives(all=Limits(error_percent=1, min_requests=0, p95_ms=10)), entries)
    assert verdict.exit_code == 2
    assert verdict.reasons[0].startswith("all: too few requests: 0")


def test_an_endpoint_with_objectives_that_nobody_asked_is_inconclusive() -> None:
    verdict = judge(objectives(Limits(p95_ms=10)), make_run({"POST /tasks": 5}))
    assert verdict.exit_code == 2
    assert "GET /tasks: too few requests: 0" in verdict.reasons[0]


def test_a_service_that_only_fails_fails() -> None:
    verdict = judge(Objectives(all=ERRORS), make_run({READ: 5}, failures=20 * 25))
    assert verdict.exit_code == 1


def test_the_intended_start_decides_in_open_loop_runs_and_both_are_reported() -> None:
    run = make_run({READ: 5}, intended={READ: 500})
    verdict = judge(objectives(Limits(p95_ms=12)), run)
    assert verdict.exit_code == 1
    summary = next(row for row in verdict.summaries if row.endpoint == READ)
    assert summary.p95 < 12
    assert (summary.intended_p95 or 0) > 500
    assert judge(objectives(Limits(p95_ms=12)), make_run({READ: 5})).exit_code == 0


def test_the_warm_up_does_not_count() -> None:
    cold = make_run({READ: 500}, seconds=2)
    run = [*cold, *make_run({READ: 5}, start=START + 2)[1:]]
    assert judge(objectives(Limits(p95_ms=12)), run).exit_code == 0


def test_only_the_last_run_of_a_record_is_judged() -> None:
    run = [*make_run({READ: 500}), *make_run({READ: 5}, start=START + 100)]
    assert judge(objectives(Limits(p95_ms=12)), run).exit_code == 0


def test_a_slow_machine_leaves_the_verdict_to_the_ratio() -> None:
    slow = make_run({READ: 40, LIVEZ: 20})
    verdict = judge(with_yardstick(Limits(p95_ms=12, p95_ratio=3)), slow)
    assert verdict.exit_code == 0
    assert outcome_of(verdict, "p95_ms") is Outcome.EXCUSED
    assert verdict.reasons == []
    alone = judge(with_yardstick(Limits(p95_ms=12)), slow)
    assert alone.exit_code == 2
    assert "slow machine: P95 of GET /livez" in alone.reasons[0]


def yardstick_run(livez: list[float], read: float = 40) -> list[Entry]:
    return [*run_of(*[[read] * 20] * 20), *run_of(*[livez] * 20, endpoint=LIVEZ)]


def test_a_machine_is_slow_or_useless_only_above_its_limits() -> None:
    run = yardstick_run([5.0] * 20)
    at = float(histogram.percentile(histogram.decode(encoded([5.0])), 95))
    limits = Limits(p95_ms=12, p95_ratio=30)
    for slow, useless, outcome in ((at, None, Outcome.FAIL), (3, at, Outcome.EXCUSED), (3, 4, Outcome.INCONCLUSIVE)):
        yardstick = Yardstick(LIVEZ, slow_p95_ms=slow, useless_p95_ms=useless)
        assert checked(limits, run, "p95_ms", yardstick=yardstick).outcome is outcome


def test_the_yardstick_is_its_p95() -> None:
    run = yardstick_run([*[2.0] * 19, 50.0])
    limits = Limits(p95_ms=12, p95_ratio=30)
    yardstick = Yardstick(LIVEZ, slow_p95_ms=3, useless_p95_ms=1000)
    assert checked(limits, run, "p95_ms", yardstick=yardstick).outcome is Outcome.FAIL
    ratio = checked(limits, run, "p95_ratio", yardstick=yardstick)
    assert (ratio.measured, ratio.low, ratio.high) == pytest.approx((20, 20, 20), rel=0.01)


def test_a_yardstick_without_requests_has_no_ratio() -> None:
    verdict = judge(with_yardstick(Limits(p95_ms=12, p95_ratio=3)), make_run({READ: 5}))
    assert verdict.exit_code == 2
    assert verdict.reasons == ["GET /tasks: the yardstick got no requests, so there is no ratio"]


def test_a_slow_service_on_a_quick_machine_is_not_excused() -> None:
    verdict = judge(with_yardstick(Limits(p95_ms=12, p95_ratio=3)), make_run({READ: 40, LIVEZ: 1}))
    assert verdict.exit_code == 1
    assert {outcome_of(verdict, "p95_ms"), outcome_of(verdict, "p95_ratio")} == {Outcome.FAIL}


def test_a_slow_service_on_a_slow_machine_fails_by_the_ratio() -> None:
    verdict = judge(with_yardstick(Limits(p95_ms=12, p95_ratio=3)), make_run({READ: 400, LIVEZ: 20}))
    assert verdict.exit_code == 1
    assert "times the yardstick's" in verdict.reasons[0]


@pytest.mark.parametrize(
    ("series", "value", "reason"),
    [
        ("generator CPU", 97, "the load generator was saturated: it used 97 % of a CPU"),
        ("generator lag P95", 80, "the machine was too busy to measure on"),
    ],
)
@pytest.mark.parametrize("median", [5, 500])
def test_a_generator_that_could_not_measure_decides_nothing(
    series: str, value: float, reason: str, median: float
) -> None:
    samples = [Sample(START + second, series, value, "process") for second in range(30)]
    verdict = judge(objectives(Limits(p95_ms=12)), [*make_run({READ: median}), *samples])
    assert verdict.exit_code == 2
    assert reason in verdict.reasons[0]


@pytest.mark.parametrize(("series", "most"), [("generator CPU", 90), ("generator lag P95", 10)])
def test_a_generator_at_its_limit_could_measure(series: str, most: float) -> None:
    for value, exit_code in ((most, 0), (most + 1, 2)):
        run = [*make_run({READ: 5}), Sample(START + 2, series, value, "process"), Sample(START, series, 0, "process")]
        assert judge(objectives(Limits(p95_ms=12)), run).exit_code == exit_code


def test_a_generator_of_which_nothing_was_sampled_could_measure() -> None:
    judged = objectives(Limits(p95_ms=12), generator=GeneratorLimits(cpu_percent=0, lag_p95_ms=0))
    assert judge(judged, make_run({READ: 5})).exit_code == 0


def test_errors_fail_whatever_the_generator_could_measure() -> None:
    samples = [Sample(START + second, "generator CPU", 100, "process") for second in range(30)]
    run = [*make_run({READ: 5}, failures=100), *samples]
    assert judge(objectives(Limits(p95_ms=12)), run).exit_code == 1


def test_too_little_throughput_fails() -> None:
    verdict = judge(objectives(Limits(min_per_second=50)), make_run({READ: 5}, per_second=20))
    assert verdict.exit_code == 1
    assert "20.0 requests a second, the least is 50" in verdict.reasons[0]
    least = checked(Limits(min_per_second=20), make_run({READ: 5}, per_second=20), "min_per_second")
    assert (least.outcome, least.measured, least.reason) == (Outcome.PASS, 20, "")


def test_too_little_throughput_of_a_saturated_generator_decides_nothing() -> None:
    run = [*make_run({READ: 5}), Sample(START + 3, "generator CPU", 97, "process")]
    assert checked(Limits(min_per_second=50), run, "min_per_second").outcome is Outcome.INCONCLUSIVE
    assert checked(Limits(min_per_second=5), run, "min_per_second").outcome is Outcome.PASS


def test_a_user_whose_own_code_failed_makes_the_run_inconclusive() -> None:
    run = [*make_run({READ: 5}), Event(START + 3, "error", "a user raised KeyError('id')")]
    verdict = judge(objectives(Limits(p95_ms=12)), run)
    assert verdict.exit_code == 2
    assert verdict.reasons == ["the load test itself failed: a user raised KeyError('id')"]


def served(at: float, within: int, total: int) -> Durations:
    return Durations(at, READ, {"0.005": within, "0.01": total, "+Inf": total})


@pytest.mark.parametrize(("within", "exit_code"), [(964, 0), (935, 1), (937, 2)])
def test_the_services_own_histogram_is_held_at_a_buckets_bound(within: int, exit_code: int) -> None:
    run = [*make_run({READ: 5}), served(START + 1, 5, 900), served(START + 3, 10, 1000)]
    run.append(served(START + 25, 10 + within, 2000))
    assert judge(objectives(Limits(server_p95_ms=5)), run).exit_code == exit_code


@pytest.mark.parametrize(
    ("buckets", "p95"),
    [
        ({"0.005": 900, "0.01": 1000, "+Inf": 1000}, 7.5),  # half of the second bucket
        ({"0.005": 1000, "0.01": 1000, "+Inf": 1000}, 4.75),
        ({"0.005": 18, "0.01": 19, "+Inf": 20}, 10),
        ({"0.005": 900, "0.01": 940, "+Inf": 1000}, 10),  # beyond the last bound is not known
        ({"0.005": 1, "0.01": 1, "+Inf": 1}, 4.75),
    ],
)
def test_the_services_p95_is_interpolated_as_prometheus_does(buckets: dict[str, int], p95: float) -> None:
    readings = [Durations(START + at, READ, read) for at, read in ((2, {}), (9, {}), (25, buckets))]
    run = [*make_run({READ: 5}), *readings]
    check = checked(Limits(server_p95_ms=5), run, "server_p95_ms", warmup_seconds=2)
    assert check.measured == pytest.approx(p95)
    assert check.limit == 5


def test_the_share_within_a_services_bucket_is_the_reason_of_a_pass_too() -> None:
    run = [*make_run({READ: 5}), served(START, 0, 0), served(START + 25, 990, 1000)]
    reason = "99.0 % (98.2 to 99.5) took at most 5 ms in the service, 95 % have to"
    assert checked(Limits(server_p95_ms=5), run, "server_p95_ms").reason == reason


def test_a_service_that_counted_nothing_is_inconclusive() -> None:
    run = [*make_run({READ: 5}), served(START + 3, 900, 1000), served(START + 25, 900, 1000)]
    check = checked(Limits(server_p95_ms=5), run, "server_p95_ms")
    reason = "the service's own histogram was not read, or counted nothing"
    assert (check.outcome, check.reason) == (Outcome.INCONCLUSIVE, reason)


ONE = "GET /tasks/<int:task_id>"


@pytest.mark.parametrize(
    ("own", "peers", "livez", "exit_code"),
    [
        (0, 1000, 20, 1),  # one endpoint alone is slow
        (0, 0, 20, 0),  # every endpoint is: the ratio decides
        (800, 1000, 20, 0),  # some requests of one are
        (0, 440, 20, 1),  # the other mostly missed it too, but far less
        (0, 400, 20, 0),  # two fifths between them are not certain
        (400, 1000, 20, 1),
        (480, 1000, 20, 0),  # half of its requests may have held the limit
        (300, 700, 20, 0),
        (1000, 1000, 400, 2),  # nothing can be measured
    ],
)
def test_a_slow_machine_excuses_an_endpoint_only_where_the_others_are_slow_too(
    own: int, peers: int, livez: int, exit_code: int
) -> None:
    limits = Limits(server_p95_ms=5, p95_ratio=30)
    judged = objectives(limits, yardstick=Yardstick(LIVEZ, slow_p95_ms=3, useless_p95_ms=50))
    judged = msgspec.structs.replace(judged, endpoints={READ: limits, ONE: limits})
    run: list[Entry] = [*make_run({READ: 25, ONE: 25, LIVEZ: livez})]
    for endpoint, within in ((READ, own), (ONE, peers)):
        for at, share in ((3, 0), (25, 1)):
            counts = {"0.005": within * share, "0.05": 1000 * share, "+Inf": 1000 * share}
            run.append(Durations(START + at, endpoint, counts))
    verdict = judge(judged, run)
    assert verdict.exit_code == exit_code
    if exit_code == 1:
        assert f"{ONE} mostly held its limit in the same run" in verdict.reasons[0]


@pytest.mark.parametrize(
    ("one", "other", "exit_code"),
    [
        (40, 8, 1),  # one endpoint alone is slow
        (40, 40, 0),  # both are: the ratio decides
        (12, 8, 0),  # some requests of one are
    ],
)
@pytest.mark.parametrize("ratio", [30, None])
def test_a_client_excuses_an_endpoint_only_where_the_others_are_slow_too(
    one: float, other: float, exit_code: int, ratio: float | None
) -> None:
    limits = Limits(p95_ms=15, p95_ratio=ratio)
    judged = objectives(limits, yardstick=Yardstick(LIVEZ, slow_p95_ms=3))
    judged = msgspec.structs.replace(judged, endpoints={READ: limits, ONE: limits, LIVEZ: Limits(p95_ms=60)})
    verdict = judge(judged, make_run({READ: one, ONE: other, LIVEZ: 5}))
    assert verdict.exit_code == (2 if ratio is None and not exit_code else exit_code)
    if exit_code == 1:
        assert f"{ONE} mostly held its limit in the same run" in verdict.reasons[0]


@pytest.mark.parametrize(("limited", "outcome"), [(True, Outcome.FAIL), (False, Outcome.EXCUSED)])
def test_an_endpoint_at_its_limit_holds_it_and_one_without_a_limit_proves_nothing(
    *, limited: bool, outcome: Outcome
) -> None:
    at = float(histogram.percentile(histogram.decode(encoded([8.0])), 95))
    limits = Limits(p95_ms=at, p95_ratio=30)
    judged = objectives(limits, yardstick=Yardstick(LIVEZ, slow_p95_ms=3), warmup_seconds=0)
    other = limits if limited else Limits(p95_ratio=30)
    judged = msgspec.structs.replace(judged, endpoints={READ: limits, ONE: other})
    run = [*yardstick_run([5.0] * 20), *run_of(*[[8.0] * 20] * 20, endpoint=ONE)]
    assert outcome_of(judge(judged, run), "p95_ms") is outcome


def test_a_machine_twenty_times_too_slow_is_inconclusive_unless_another_bound_is_set() -> None:
    run = make_run({READ: 400, LIVEZ: 400})
    limits = Limits(p95_ms=12, p95_ratio=3)
    verdict = judge(with_yardstick(limits), run)
    assert verdict.exit_code == 2
    assert "too slow to measure on" in verdict.reasons[0]
    lenient = objectives(limits, yardstick=Yardstick(LIVEZ, slow_p95_ms=3, useless_p95_ms=1000))
    assert judge(lenient, run).exit_code == 0


@pytest.mark.parametrize("total", [1000, 1])
def test_a_bound_that_is_no_bucket_is_refused_with_those_there_are(total: int) -> None:
    run = [*make_run({READ: 5}), served(START + 3, 0, 0), served(START + 25, total, total)]
    verdict = judge(objectives(Limits(server_p95_ms=7)), run)
    assert verdict.exit_code == 2
    assert "no bucket of 7 ms but 5, 10" in verdict.reasons[0]


def test_a_service_whose_metrics_were_not_read_is_inconclusive() -> None:
    verdict = judge(objectives(Limits(server_p95_ms=5)), make_run({READ: 5}))
    assert verdict.exit_code == 2
    assert verdict.reasons == ["GET /tasks: the service's own histogram was not read, or counted nothing"]


@pytest.mark.parametrize(
    ("outcomes", "text"),
    [
        ([Outcome.PASS, Outcome.PASS], "every objective holds"),
        ([Outcome.PASS, Outcome.EXCUSED], "1 of 2 objectives hold, 1 missed and excused: this machine is slow"),
    ],
)
def test_a_verdict_does_not_count_what_was_excused_as_held(outcomes: list[Outcome], text: str) -> None:
    checks = [Check(endpoint=READ, objective="P95", limit=100, outcome=outcome) for outcome in outcomes]
    assert GateResult(outcome=Outcome.PASS, reasons=[], checks=checks, summaries=[]).text == text
