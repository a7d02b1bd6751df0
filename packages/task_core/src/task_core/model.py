"""A task and a change of one, as the services return and send them."""

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from task_core.reminder import Reminders

LARGEST_ID = 2**53 - 1  # every JSON parser reads it exactly (RFC 8259, section 6)

Status = Literal["pending", "in_progress", "completed"]
Priority = Literal["low", "normal", "high"]
PRIORITIES: tuple[Priority, ...] = ("low", "normal", "high")
Id = Annotated[int, Meta(ge=0, le=LARGEST_ID)]
Version = Annotated[int, Meta(ge=1, le=2**31 - 1)]


class Task(Struct, frozen=True):
    """A task as the service returns it."""

    id: Id
    title: str
    description: str
    status: Status
    priority: Priority
    due_at: datetime | None
    project: str | None
    labels: Annotated[list[str], Meta(description="in the order of their code points")]
    recurrence: str | None
    time_zone: str | None
    reminders: Reminders
    created_at: datetime
    updated_at: datetime
    owner_id: Annotated[Id, Meta(description="the account that owns it; returned to administrators")] | UnsetType = (
        UNSET
    )


class Versioned(Struct, frozen=True):
    """A task with the version that its entity tag is made of, and its owner."""

    task: Task
    version: int
    owner_id: int

    def current(self, *, with_owner: bool) -> "CurrentTask":
        """The task with its version, and with its owner for who sees those of all."""
        shown = self.with_owner if with_owner else self.task
        return CurrentTask(**msgspec.structs.asdict(shown), version=self.version)

    @property
    def with_owner(self) -> Task:
        """The task with its owner."""
        return msgspec.structs.replace(self.task, owner_id=self.owner_id)


class CurrentTask(Task, frozen=True, kw_only=True):
    """A task with its version, which a write names in If-Match."""

    version: Version


class Reminded(Struct, frozen=True):
    """A reminder that went out, and what the task is now."""

    kind: Literal["reminder"]
    id: Id
    version: Annotated[Version, Meta(description="the version that the task had when it went out")]
    changed_at: Annotated[datetime, Meta(description="when it went out")]
    task: CurrentTask | None
    remind_at: Annotated[datetime, Meta(description="the moment that was set")]
    late: Annotated[bool, Meta(description="whether it went out more than 60 seconds after its moment")]

    @property
    def moot(self) -> bool:
        """Whether the task is completed or deleted by now."""
        return self.task is None or self.task.status == "completed"


class Change(Struct, frozen=True):
    """One change of a task, and what the task is now; applied in order, they lead to what the service has."""

    kind: Annotated[
        Literal["existing", "created", "updated", "deleted", "restored"],
        Meta(description="`existing`: a task that was there when the feed was begun"),
    ]
    id: Id
    version: Annotated[Version, Meta(description="the version that the change led to")]
    changed_at: datetime
    task: Annotated[CurrentTask | None, Meta(description="the task as it is now, null while it is deleted")]
