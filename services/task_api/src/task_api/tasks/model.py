"""A task and the shapes it comes and goes in. Decoding one of these with msgspec is its validation."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import NODEFAULT, UNSET, Meta, Struct, UnsetType

from task_api.tasks.recurrence import LONGEST_RULE
from task_core.model import (
    LARGEST_ID,
    PRIORITIES,
    Change,
    CurrentTask,
    Id,
    Priority,
    Status,
    Task,
    Version,
    Versioned,
)
from task_core.reminder import Moment, Reminder, Reminders, utc

__all__ = [
    "LARGEST_ID",
    "PRIORITIES",
    "Change",
    "CurrentTask",
    "Id",
    "Moment",
    "Priority",
    "Reminder",
    "Reminders",
    "Status",
    "Task",
    "Version",
    "Versioned",
    "utc",
]

LONGEST_TITLE = 200
LARGEST_PAGE = 200
LARGEST_BULK = 1000

# PostgreSQL cannot keep U+0000, so both databases refuse it. A name also needs one character that is no space.
Name = Annotated[
    str,
    Meta(
        # The spaces that `str.strip` removes: `\s` means others in ECMAScript, whose syntax JSON Schema has.
        pattern=r"^[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*"
        r"[^\x00\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000][^\x00]*$",
    ),
]
Title = Annotated[
    Name,
    Meta(
        description="1 to 200 characters after trimming",
        extra_json_schema={"minLength": 1, "maxLength": LONGEST_TITLE},
    ),
]
Project = Annotated[
    Name,
    Meta(
        min_length=1,
        max_length=100,
        description="the name of the group that the task is in; space around it is removed",
    ),
]
Label = Annotated[Name, Meta(min_length=1, max_length=50, description="space around it is removed")]
Labels = Annotated[list[Label], Meta(max_length=20, description="each counts once, in no order")]
Recurrence = Annotated[
    str,
    Meta(
        max_length=LONGEST_RULE,
        pattern=r"^[A-Z-]+=[A-Z0-9,+-]+(;[A-Z-]+=[A-Z0-9,+-]+)*$",
        description="a rule of RFC 5545 (RRULE) by which completing the task creates the next one; it needs `due_at`",
        examples=["FREQ=WEEKLY;BYDAY=MO,TH"],
    ),
]
TimeZone = Annotated[
    str,
    Meta(
        max_length=64,
        pattern=r"^[A-Za-z0-9_+/-]+$",
        description="the IANA time zone in which the rule keeps the time of day; null is UTC",
        examples=["Europe/Berlin"],
    ),
]
Description = Annotated[str, Meta(max_length=10_000, pattern=r"^[^\x00]*$")]
ReadOnly = Annotated[Any, Meta(description="Ignored: the service sets it.", extra_json_schema={"readOnly": True})]


def trimmed(title: str) -> str:
    """The title without the space around it. Raises ValueError when it is longer than 200 characters."""
    title = title.strip()
    if len(title) > LONGEST_TITLE:
        raise ValueError(f"a title has at most {LONGEST_TITLE} characters, this one has {len(title)}")
    return title


def distinct(labels: list[str]) -> list[str]:
    """The labels without the space around each, each once, in the order of their code points."""
    return sorted({label.strip() for label in labels})


class NewTask(Struct, forbid_unknown_fields=True, kw_only=True):
    """What a client sends to create a task; a task read from this service can be sent as it is."""

    title: Title
    description: Description = ""
    status: Status = "pending"
    priority: Priority = "normal"
    due_at: Moment | None = None
    project: Project | None = None
    labels: Labels = []
    recurrence: Recurrence | None = None
    time_zone: TimeZone | None = None
    reminders: Reminders = []
    id: ReadOnly | UnsetType = UNSET
    created_at: ReadOnly | UnsetType = UNSET
    updated_at: ReadOnly | UnsetType = UNSET
    owner_id: ReadOnly | UnsetType = UNSET

    def __post_init__(self) -> None:
        self.title = trimmed(self.title)
        if self.due_at is not None:
            self.due_at = utc(self.due_at)
        if self.project is not None:
            self.project = self.project.strip()
        self.labels = distinct(self.labels)
        self.reminders = list(dict.fromkeys(self.reminders))


class TaskChanges(Struct, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The fields to change; those that are left out stay as they are."""

    title: Title | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    status: Status | UnsetType = UNSET
    priority: Priority | UnsetType = UNSET
    due_at: Moment | UnsetType | None = UNSET
    project: Project | UnsetType | None = UNSET
    labels: Labels | UnsetType = UNSET
    recurrence: Recurrence | UnsetType | None = UNSET
    time_zone: TimeZone | UnsetType | None = UNSET
    reminders: Reminders | UnsetType = UNSET
    id: ReadOnly | UnsetType = UNSET
    created_at: ReadOnly | UnsetType = UNSET
    updated_at: ReadOnly | UnsetType = UNSET
    owner_id: ReadOnly | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.title is not UNSET:
            self.title = trimmed(self.title)
        if isinstance(self.due_at, datetime):
            self.due_at = utc(self.due_at)
        if isinstance(self.project, str):
            self.project = self.project.strip()
        if self.labels is not UNSET:
            self.labels = distinct(self.labels)
        if self.reminders is not UNSET:
            self.reminders = list(dict.fromkeys(self.reminders))


class TaskMergePatch(Struct, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A JSON Merge Patch (RFC 7396): null takes a member away, which for one with a default means that default."""

    title: Title | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET
    status: Status | UnsetType | None = UNSET
    priority: Priority | UnsetType | None = UNSET
    due_at: Moment | UnsetType | None = UNSET
    project: Project | UnsetType | None = UNSET
    labels: Labels | UnsetType | None = UNSET
    recurrence: Recurrence | UnsetType | None = UNSET
    time_zone: TimeZone | UnsetType | None = UNSET
    reminders: Reminders | UnsetType | None = UNSET
    id: ReadOnly | UnsetType = UNSET
    created_at: ReadOnly | UnsetType = UNSET
    updated_at: ReadOnly | UnsetType = UNSET
    owner_id: ReadOnly | UnsetType = UNSET

    def __post_init__(self) -> None:
        self.changes()  # what breaks a rule is refused while the body is decoded

    def changes(self) -> TaskChanges:
        """The changes that this patch requests. Raises ValueError where a value breaks a rule of TaskChanges."""
        given = {
            field.name: _default(field) if (value := getattr(self, field.name)) is None else value
            for field in _CHANGEABLE
            if getattr(self, field.name) is not UNSET
        }
        return TaskChanges(**given)


def _default(field: msgspec.structs.FieldInfo) -> Any:
    return field.default_factory() if field.default is NODEFAULT else field.default


READ_ONLY = ("id", "created_at", "updated_at", "owner_id")
_CHANGEABLE = [field for field in msgspec.structs.fields(NewTask) if field.name not in READ_ONLY]
CHANGEABLE = tuple(field.name for field in _CHANGEABLE)


Sort = Literal["id", "-id", "updated_at", "-updated_at", "due_at", "-due_at", "priority", "-priority"]
Words = Annotated[
    str,
    Meta(
        max_length=200,
        pattern=r"[^\W_]",
        description="words that title or description must have, all of them",
        extra_json_schema={"x-ecmascript-pattern": r"[\p{L}\p{N}]"},
    ),
]


class TaskQuery(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which tasks, in which order, and which page of them."""

    status: Status | UnsetType = UNSET
    priority: Priority | UnsetType = UNSET
    project: Project | UnsetType = UNSET
    label: (
        Annotated[list[Label], Meta(max_length=20, description="a label that the task has; repeated: all of them")]
        | UnsetType
    ) = UNSET
    due_before: Moment | UnsetType = UNSET
    due_after: Moment | UnsetType = UNSET
    q: Words | UnsetType = UNSET
    sort: Sort = "id"
    limit: Annotated[int, Meta(ge=1, le=LARGEST_PAGE)] = 50
    cursor: Annotated[str, Meta(max_length=512, description="from the Link header of the page before")] | UnsetType = (
        UNSET
    )

    def __post_init__(self) -> None:
        for moment in (self.due_before, self.due_after):
            if isinstance(moment, datetime):
                utc(moment)


class Create(Struct, tag="create", tag_field="op", forbid_unknown_fields=True):
    """Create a task."""

    task: NewTask


class Update(Struct, tag="update", tag_field="op", forbid_unknown_fields=True):
    """Change fields of a task, where `version` is sent only if the task's entity tag still has it."""

    id: Id
    changes: TaskChanges
    version: Version | None = None


class Delete(Struct, tag="delete", tag_field="op", forbid_unknown_fields=True):
    """Delete a task, where `version` is sent only if the task's entity tag still has it."""

    id: Id
    version: Version | None = None


class Bulk(Struct, forbid_unknown_fields=True):
    """Operations that are done in order and in one transaction: all of them, or none."""

    operations: Annotated[list[Create | Update | Delete], Meta(min_length=1, max_length=LARGEST_BULK)]


class BulkResult(Struct, frozen=True):
    """What one operation came to: the task as it is now, or null for one deleted, and its version."""

    op: Literal["create", "update", "delete"]
    id: Id
    task: Task | None
    version: Annotated[
        Version | None,
        Meta(description="the version that a write or a restore names in If-Match; null for a task removed for good"),
    ]


class BulkResults(Struct, frozen=True):
    """One result for each operation, in the same order."""

    results: list[BulkResult]


class TaskPage(Struct, frozen=True):
    """A page of tasks, each with the version that a write names in If-Match."""

    items: list[CurrentTask]
    next: Annotated[str | None, Meta(description="the next page, as in the Link header; null on the last one")]


class Changes(Struct, frozen=True):
    """A page of the feed."""

    changes: list[Change]
    next: Annotated[str, Meta(description="the token for `since`; good for at least 30 days")]
    more: Annotated[bool, Meta(description="whether there is more to read at once")]


class ChangesQuery(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where to read on, and how much."""

    since: (
        Annotated[str, Meta(max_length=512, description="`next` of the page before; none begins the feed")] | UnsetType
    ) = UNSET
    limit: Annotated[int, Meta(ge=1, le=LARGEST_PAGE)] = 200


class HistoryEntry(Struct, frozen=True):
    """Who changed what of a task, and when."""

    version: Version
    kind: Literal["created", "updated", "deleted", "restored"]
    changed_at: datetime
    account_id: Annotated[Id, Meta(description="the account that did it")]
    fields: Annotated[list[str], Meta(description="the names of what an update changed")]


class CalendarQuery(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a calendar client sends, which knows an address and no headers."""

    token: (
        Annotated[
            str, Meta(max_length=128, description="a personal token whose one scope is `calendar:read`; no other token")
        ]
        | UnsetType
    ) = UNSET


class LabelUse(Struct, frozen=True):
    """A label, and how many tasks have it."""

    name: Label
    tasks: Annotated[int, Meta(ge=1)]


class LabelQuery(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A page of labels: the first, or what follows the label `after`."""

    after: Label | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1, le=LARGEST_PAGE)] = LARGEST_PAGE


class LabelRename(Struct, forbid_unknown_fields=True):
    """A label, and its new name."""

    name: Label
    to: Label

    def __post_init__(self) -> None:
        self.name, self.to = self.name.strip(), self.to.strip()


class LabelRemoval(Struct, forbid_unknown_fields=True):
    """A label to take off."""

    name: Label

    def __post_init__(self) -> None:
        self.name = self.name.strip()


class LabelChange(Struct, frozen=True):
    """What became of a label."""

    tasks: Annotated[int, Meta(ge=0, description="how many tasks were changed")]
    more: Annotated[bool, Meta(description="whether some are left: send the request again")]


class Deleted(Struct, frozen=True):
    """The result of a deletion."""

    id: Id
    message: str = "task deleted"


class TaskNotFound(Exception):
    """The task does not exist, or belongs to another account: a client cannot know which."""

    def __init__(self, task_id: int) -> None:
        super().__init__(f"there is no task {task_id}")
        self.task_id = task_id


class VersionConflict(Exception):
    """The task has another version than the caller holds."""

    def __init__(self, held: Versioned) -> None:
        super().__init__(
            f"task {held.task.id} is at version {held.version}: read it again and repeat the change on what it is now"
        )
        self.held = held


class BadSchedule(Exception):
    """The task cannot come again, or remind, as it is to: what is wrong, by the paths of its fields."""

    def __init__(self, faults: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {detail}" for name, detail in faults.items()))
        self.faults = faults


class BadRecurrence(BadSchedule):
    """The task could not recur so."""


class BadReminders(BadSchedule):
    """The task has reminders before a due date, and no due date."""


class BadCursor(ValueError):
    """The cursor is not one of this service, or for another order."""

    def __init__(self) -> None:
        super().__init__(
            "the cursor is not of this listing: take it from the Link header, with the same sort and filters"
        )


class CalendarTooLarge(Exception):
    """The account has more tasks than a calendar takes."""


class BadFeedToken(ValueError):
    """The token of the feed was not made by this service."""

    def __init__(self) -> None:
        super().__init__("the token is not of this feed: send `next` of the page before as it was received")


class FeedGone(Exception):
    """What follows the token is not known completely any more."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}: begin anew without `since`, with an empty copy")
