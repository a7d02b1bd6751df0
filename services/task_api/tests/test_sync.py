"""Clients that work offline and synchronise when they can, over connections that break: in the end all agree."""

import uuid
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import timedelta
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from sqlalchemy import Connection

from task_api.store.clearing import clear
from task_api.tasks import service
from task_api.tasks.model import TaskChanges
from task_core.database import Database
from task_core.schema import LOCAL_ACCOUNT

from .conftest import Client, empty
from .test_changes import age, apply, shown

STEPS_OF_EXAMPLE = 40
CLIENTS = 3

Cut = Literal["", "request", "response"]
"""What of an exchange is lost: nothing, the request, or only the response, when the service has done it."""

clients, titles = st.integers(0, CLIENTS - 1), st.sampled_from(["a", "b", "c"])
LABELS = ["l", "m"]
STATUSES = [["completed"], ["pending"], ["completed", "pending", "completed"]]
COMPLETED = {"status": "completed"}
SERIES = {
    "due_at": "2030-01-01T08:00:00Z",
    "recurrence": "FREQ=DAILY;COUNT=3",
    "reminders": [{"before": "PT15M"}, {"at": "2029-12-31T00:00:00Z"}],
}
"""What makes a task the first of three."""
cuts = st.sampled_from(["", "", "request", "response"])
picks = st.integers(0, 5)


class Lost(Exception):
    """The connection broke."""


class Operation(msgspec.Struct):
    """What a client did offline, to be sent."""

    method: str
    path: str
    json: dict[str, Any] | None = None
    headers: dict[str, str] = {}


class Device(msgspec.Struct):
    """A client with a copy of the tasks, what it did to them since, and the token from which it reads on."""

    copy: dict[int, Any] = {}
    sent_later: list[Operation] = []
    deleted: list[int] = []
    since: str = ""


class Sync(RuleBasedStateMachine):
    """Devices and a service. `expected` is what the service has done, by its responses, lost ones included."""

    agreements = 0
    """How many runs have ended with equal copies."""

    def __init__(self, client: Client, database: Database) -> None:
        super().__init__()
        self.client, self.database = client, database
        empty(database)
        self.devices = [Device() for _ in range(CLIENTS)]
        self.expected: dict[int, str] = {}
        self.trash: dict[int, str] = {}
        self.keys: dict[str, int] = {}
        self.left: dict[int, int] = {}
        """How many tasks of its series are left, by the id of each task that recurs and has not led to the next one."""
        self.slow: tuple[int, str, AbstractContextManager[Connection]] | None = None

    def exchange(self, cut: Cut, operation: Operation, query: dict[str, str] | None = None) -> Any:
        if cut == "request":
            raise Lost
        answer = self.client.open(
            operation.path,
            method=operation.method,
            json=operation.json,
            headers=operation.headers,
            query_string=query or {},
        )
        self.note(operation, answer)
        if cut == "response":
            raise Lost
        return answer

    def note(self, operation: Operation, answer: Any) -> None:
        """Keep account of what the service has done."""
        assert answer.status_code in {200, 201, 404, 410, 412}, answer.text
        if operation.method == "GET" or not 200 <= answer.status_code < 300:
            return
        key = operation.headers.get("Idempotency-Key", "")
        task = answer.json["id"]
        if operation.method == "DELETE":
            self.trash[task] = self.expected.pop(task)
        elif operation.path.endswith("/restore"):
            if task in self.trash:
                self.expected[task] = self.trash.pop(task)
        elif operation.method == "POST" and key in self.keys:
            assert self.keys[key] == task, "what was created once is not created again"
        else:
            if operation.method == "POST" and answer.json["recurrence"]:
                self.left[task] = 3
            self.keys.setdefault(key, task)
            self.expected[task] = answer.json["title"]
        assert answer.json.get("title") == self.expected.get(task)
        if operation.json == COMPLETED:
            self.follow(task)

    def follow(self, completed: int) -> None:
        """Expect the next task of one that is completed for the first time, and no other task ever."""
        left = self.left.pop(completed, 0) - 1
        made = shown(self.client).keys() - self.expected.keys()
        assert len(made) == (left > 0), "completing a task makes the next one, exactly once"
        for task in made:
            self.expected[task] = self.expected[completed]
            self.left[task] = left

    @initialize(recurs=st.lists(st.booleans(), min_size=1, max_size=3))
    def begin(self, recurs: list[bool]) -> None:
        """Let every device know some tasks: most of what they do is about one."""
        for each in recurs:
            self.create(0, "a", [], each)
        self.send(0, "")
        for number in range(CLIENTS):
            self.read(number, "", 0, 3)

    @rule(number=clients, title=titles, labels=st.lists(st.sampled_from(LABELS), max_size=3), recurs=st.booleans())
    def create(self, number: int, title: str, labels: list[str], recurs: bool) -> None:
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        task = {"title": title, "labels": labels, **(SERIES if recurs else {})}
        self.devices[number].sent_later.append(Operation("POST", "/tasks", task, headers))

    @rule(number=clients, pick=picks, title=titles)
    def change(self, number: int, pick: int, title: str) -> None:
        if task := self.picked(number, pick):
            headers = {"If-Match": f'"{task["version"]}"'}
            self.devices[number].sent_later.append(Operation("PUT", f"/tasks/{task['id']}", {"title": title}, headers))

    @rule(number=clients, pick=picks, statuses=st.sampled_from(STATUSES), blindly=st.booleans())
    def set_status(self, number: int, pick: int, statuses: list[str], blindly: bool) -> None:
        """Complete a task and open it again, `blindly` whatever others have done to it meanwhile."""
        if task := self.picked(number, pick):
            headers = {} if blindly else {"If-Match": f'"{task["version"]}"'}
            for status in statuses:
                change = Operation("PUT", f"/tasks/{task['id']}", {"status": status}, headers)
                self.devices[number].sent_later.append(change)

    @rule(number=clients, pick=picks)
    def delete(self, number: int, pick: int) -> None:
        if task := self.picked(number, pick):
            headers = {"If-Match": f'"{task["version"]}"'}
            self.devices[number].sent_later.append(Operation("DELETE", f"/tasks/{task['id']}", None, headers))
            self.devices[number].deleted.append(task["id"])

    @rule(number=clients, pick=picks)
    def restore(self, number: int, pick: int) -> None:
        if deleted := self.devices[number].deleted:
            path = f"/tasks/{deleted[pick % len(deleted)]}/restore"
            self.devices[number].sent_later.append(Operation("POST", path))

    def picked(self, number: int, pick: int) -> Any:
        copy = self.devices[number].copy
        return copy[sorted(copy)[pick % len(copy)]] if copy else None

    @rule(number=clients, cut=cuts, after=st.integers(0, 3))
    def send(self, number: int, cut: Cut, after: int = 0) -> None:
        """Send what waits, the oldest first, until the connection breaks: that is sent again another time."""
        waiting = self.devices[number].sent_later
        while waiting and not (self.slow and str(self.slow[0]) in waiting[0].path.split("/")):
            try:
                self.exchange(cut if after == 0 else "", waiting[0])
            except Lost:
                return
            waiting.pop(0)  # done, or refused: another was faster
            after -= 1

    @rule(number=clients, cut=cuts, after=st.integers(0, 3), limit=st.integers(1, 3))
    def read(self, number: int, cut: Cut, after: int, limit: int) -> None:
        """Read the feed to its end, or until the connection breaks."""
        with suppress(Lost):
            while not self.read_page(number, cut if after == 0 else "", limit):
                after -= 1

    def read_page(self, number: int, cut: Cut, limit: int) -> bool:
        """Return whether the page was the last one. Raises Lost."""
        device = self.devices[number]
        query = {"limit": str(limit), **({"since": device.since} if device.since else {})}
        answer = self.exchange(cut, Operation("GET", "/tasks/changes"), query)
        if answer.status_code == 410:
            device.copy, device.since = {}, ""
            return False
        apply(device.copy, answer.json)
        device.since = answer.json["next"]
        return not answer.json["more"]

    @precondition(lambda self: self.database.dialect == "postgresql" and not self.slow and self.expected)
    @rule(pick=picks, title=titles)
    def begin_slow_change(self, pick: int, title: str) -> None:
        """Change a task in a transaction that others overtake."""
        task = sorted(self.expected)[pick % len(self.expected)]
        transaction = self.database.write()
        connection = transaction.__enter__()
        held = service.get(connection, LOCAL_ACCOUNT, task, lock=True)
        service.change(connection, held, TaskChanges(title=title), LOCAL_ACCOUNT)
        self.slow = (task, title, transaction)

    @precondition(lambda self: self.slow)
    @rule(commits=st.booleans())
    def end_slow_change(self, commits: bool) -> None:
        assert self.slow
        task, title, transaction = self.slow
        self.slow = None
        if commits:
            transaction.__exit__(None, None, None)
            self.expected[task] = title
        else:
            assert not transaction.__exit__(RuntimeError, RuntimeError(), None)

    @precondition(lambda self: not self.slow)
    @rule(names=st.permutations(LABELS))
    def rename_label(self, names: list[str]) -> None:
        """Change several tasks at once, behind the back of who will send changes of their versions."""
        answer = self.client.post("/labels/rename", json={"name": names[0], "to": names[1]})
        assert answer.status_code == 200, answer.text
        assert not any(names[0] in task["labels"] for task in shown(self.client).values())

    @precondition(lambda self: not self.slow)
    @rule(days=st.sampled_from([1, 20, 29, 40, 70]))
    def wait(self, days: int) -> None:
        """Let time pass, and what has expired be cleared."""
        age(self.database, timedelta(days=days))
        clear(self.database)

    def teardown(self) -> None:
        """Let every device send and read all there is; nothing breaks now."""
        if self.slow:
            self.end_slow_change(commits=True)
        for number in range(CLIENTS):
            self.send(number, "")
        truth = shown(self.client)
        assert {task: each["title"] for task, each in truth.items()} == self.expected
        for number, device in enumerate(self.devices):
            while not self.read_page(number, "", 3):
                pass
            assert device.copy == truth
        type(self).agreements += 1


@pytest.mark.parametrize("steps", [200, pytest.param(10_000, marks=pytest.mark.sync)])
def test_in_the_end_all_devices_have_what_the_service_has_and_nothing_acknowledged_is_lost(
    client: Client, database: Database, steps: int
) -> None:
    class Both(Sync):
        def __init__(self) -> None:
            super().__init__(client, database)

    run_state_machine_as_test(
        Both,
        settings=hypothesis_settings(
            max_examples=steps // STEPS_OF_EXAMPLE,
            stateful_step_count=STEPS_OF_EXAMPLE,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.reuse, Phase.generate],  # to shrink takes minutes
        ),
    )
    assert Both.agreements > 0


@pytest.mark.parametrize("planted", [False, True])
def test_a_next_task_that_is_made_twice_is_noticed(
    client: Client, database: Database, monkeypatch: pytest.MonkeyPatch, planted: bool
) -> None:
    machine = Sync(client, database)
    machine.create(0, "a", [], recurs=True)
    machine.send(0, "")
    for number in (0, 1):
        machine.read(number, "", 0, 3)
        machine.set_status(number, 0, ["completed"], blindly=True)
    machine.send(0, "response")
    machine.set_status(0, 0, ["pending"], blindly=True)
    machine.send(0, "")
    if planted:
        monkeypatch.setattr("task_api.store.tasks.has_next", lambda *_: False)
    with pytest.raises(AssertionError, match="exactly once") if planted else nullcontext():
        machine.send(1, "")
        machine.teardown()
