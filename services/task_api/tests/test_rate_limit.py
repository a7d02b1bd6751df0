from concurrent.futures import ThreadPoolExecutor

import pytest

from task_api.config import Rate
from task_api.http import rate_limit
from task_api.http.rate_limit import SHARE, RateLimiter
from task_api.store.database import Database

from .conftest import KEY, Serve, log_in

DAY = 86400


def test_a_client_may_have_the_limit_and_is_then_told_when_to_come_back(serve: Serve) -> None:
    client = serve(rate_limit=Rate(20, DAY))
    answers = [client.get("/tasks") for _ in range(21)]
    assert [answer.status_code for answer in answers] == [200] * 20 + [429]
    assert [int(a.headers["RateLimit"].split(";")[1][2:]) for a in answers] == [*range(19, -1, -1), 0]
    assert answers[0].headers["RateLimit-Policy"] == f'"default";q=20;w={DAY}'
    assert 0 < int(answers[-1].headers["Retry-After"]) <= DAY
    assert answers[-1].content_type == "application/problem+json"


def test_health_readiness_and_metrics_are_outside_the_limit(serve: Serve) -> None:
    client = serve(rate_limit=Rate(1, DAY))
    for path in ("/health", "/livez", "/readyz", "/metrics") * 3:
        assert client.get(path).status_code == 200


def test_each_account_has_a_limit_of_its_own(serve: Serve) -> None:
    client = serve(auth="on", jwt_keys=(KEY,), rate_limit=Rate(5, DAY))
    ada, bob = log_in(client, "ada@example.org"), log_in(client, "bob@example.org")
    assert [client.get("/tasks", headers=ada).status_code for _ in range(6)] == [200] * 5 + [429]
    assert client.get("/tasks", headers=bob).status_code == 200


def test_guesses_of_tokens_are_limited_by_address(serve: Serve) -> None:
    client = serve(auth="on", jwt_keys=(KEY,), rate_limit=Rate(3, DAY))
    guesses = [client.get("/tasks", headers={"Authorization": "Bearer x"}).status_code for _ in range(4)]
    assert guesses == [401, 401, 401, 429]


@pytest.mark.parametrize("limit", [1, 7, 100, 640])
def test_workers_that_share_a_database_never_give_more_than_the_limit(database: Database, limit: int) -> None:
    workers = [RateLimiter(Rate(limit, DAY), database) for _ in range(3)]

    def use_up(worker: RateLimiter) -> int:
        return sum(worker.hit("client").allowed for _ in range(limit))

    with ThreadPoolExecutor(3) as pool:
        allowed = sum(pool.map(use_up, workers))
    assert allowed == limit


def test_a_worker_that_is_not_asked_again_keeps_a_sixteenth_at_most(database: Database) -> None:
    first, second = (RateLimiter(Rate(160, DAY), database) for _ in range(2))
    first.hit("client")
    allowed = sum(second.hit("client").allowed for _ in range(200))
    assert 160 - 160 // SHARE <= allowed < 160


def test_a_new_window_is_a_new_limit(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = RateLimiter(Rate(2, 60), database)
    now = [1_000_000_000.0]
    monkeypatch.setattr("task_api.http.rate_limit.time.time", lambda: now[0])
    assert [limiter.hit("c").allowed for _ in range(3)] == [True, True, False]
    now[0] += 60
    assert [limiter.hit("c").allowed for _ in range(3)] == [True, True, False]


def test_a_flood_of_clients_does_not_fill_the_memory(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "MOST_CLIENTS_REMEMBERED", 10)
    limiter = RateLimiter(Rate(5, DAY), database)
    for number in range(25):
        limiter.hit(f"client {number}")
    assert len(limiter._allowances) <= 10
