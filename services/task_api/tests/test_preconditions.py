from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from msgspec.json import encode

from .conftest import Client

PATCH = {"Content-Type": "application/merge-patch+json"}


def write(client: Client, method: str, headers: dict[str, str]) -> Any:
    body = b"" if method == "DELETE" else encode({"status": "completed"})
    content = PATCH if method == "PATCH" else {"Content-Type": "application/json"}
    return client.open("/tasks/1", method=method, data=body, headers={**content, **headers})


@pytest.fixture
def task(client: Client) -> dict[str, object]:
    created: dict[str, object] = client.post("/tasks", json={"title": "a"}).json
    return created


@pytest.mark.usefixtures("task")
class TestWrites:
    @pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
    @pytest.mark.parametrize("tag", ['"1"', "*", '"7", "1"', '"7","1"', ',, "1"', '"7" , ,W/"", "!\xff","1" ,'])
    def test_happen_when_if_match_has_the_task_as_it_is(self, client: Client, method: str, tag: str) -> None:
        assert write(client, method, {"If-Match": tag}).status_code == 200

    @pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
    @pytest.mark.parametrize(
        "headers", [{"If-Match": '"2"'}, {"If-Match": 'W/"1"'}, {"If-None-Match": '"1"'}, {"If-None-Match": "*"}]
    )
    def test_do_not_happen_when_it_has_another(self, client: Client, method: str, headers: dict[str, str]) -> None:
        refused = write(client, method, headers)
        assert refused.status_code == 412
        assert refused.headers["ETag"] == '"1"'
        assert client.get("/tasks/1").json["status"] == "pending"

    @pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
    def test_do_not_happen_when_one_of_two_conditions_fails(self, client: Client, method: str) -> None:
        assert write(client, method, {"If-Match": '"1"', "If-None-Match": '"1"'}).status_code == 412

    @pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
    @pytest.mark.parametrize(
        "tag", ["", ",", "1", '"1', '1, "2"', '"1" "2"', '*, "1"', 'w/"1"', '"a b"', '"\x7f"', '1"']
    )
    def test_are_refused_with_an_if_match_that_is_no_entity_tag(self, client: Client, method: str, tag: str) -> None:
        assert write(client, method, {"If-Match": tag}).status_code == 400

    def test_give_a_new_entity_tag_that_the_next_one_needs(self, client: Client) -> None:
        first = client.put("/tasks/1", json={"title": "b"}, headers={"If-Match": '"1"'})
        assert first.headers["ETag"] == '"2"' == client.get("/tasks/1").headers["ETag"]
        assert client.put("/tasks/1", json={"title": "c"}, headers={"If-Match": '"1"'}).status_code == 412

    def test_without_conditions_are_done(self, client: Client) -> None:
        assert write(client, "PUT", {}).status_code == 200


@pytest.mark.usefixtures("task")
@pytest.mark.parametrize(("tag", "status"), [('"1"', 200), ("*", 200), ('"2"', 412), ("1", 400)])
def test_a_task_is_read_only_as_if_match_has_it(client: Client, tag: str, status: int) -> None:
    assert client.get("/tasks/1", headers={"If-Match": tag}).status_code == status


@pytest.mark.parametrize("condition", ['"1"', 'W/"1"', "*", '"9", "1"'])
def test_a_task_that_has_not_changed_is_304_without_a_body(
    client: Client, task: dict[str, object], condition: str
) -> None:
    answer = client.get("/tasks/1", headers={"If-None-Match": condition})
    assert (answer.status_code, answer.data, answer.headers["ETag"]) == (304, b"", '"1"')
    assert "Content-Type" not in answer.headers
    assert client.get("/tasks/1", headers={"If-None-Match": '"2"'}).json == task


def test_no_update_is_lost_among_clients_that_read_and_write_with_if_match(client: Client) -> None:
    client.post("/tasks", json={"title": "a", "description": "0"})

    def add_ten(_: int) -> None:
        own: Client = client.application.test_client()
        done = 0
        while done < 10:
            read = own.get("/tasks/1")
            body = {"description": str(int(read.json["description"]) + 1)}
            done += own.put("/tasks/1", json=body, headers={"If-Match": read.headers["ETag"]}).status_code == 200

    with ThreadPoolExecutor(4) as clients:
        list(clients.map(add_ten, range(4)))
    assert client.get("/tasks/1").json["description"] == "40"
