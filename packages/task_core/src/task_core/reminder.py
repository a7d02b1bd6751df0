"""When the owner of a task is reminded of it."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

Moment = Annotated[datetime, Meta(tz=True, description="RFC 3339, with a time zone; kept and returned in UTC")]
Before = Annotated[
    str,
    Meta(
        pattern=(
            "^P([0-9]{1,2}W"
            "|[0-9]{1,3}D(T([0-9]{1,4}H([0-9]{1,5}M)?([0-9]{1,6}S)?|[0-9]{1,5}M([0-9]{1,6}S)?|[0-9]{1,6}S))?"
            r"|T([0-9]{1,4}H([0-9]{1,5}M)?([0-9]{1,6}S)?|[0-9]{1,5}M([0-9]{1,6}S)?|[0-9]{1,6}S))$(?!\n)"
        ),
        description="how long before `due_at`, as a duration of ISO 8601 in weeks, or in days, hours, minutes, seconds",
        examples=["PT15M"],
    ),
]
_SECONDS = {"W": 604_800, "D": 86_400, "H": 3_600, "M": 60, "S": 1}
MOST_REMINDERS = 5
LONGEST_BEFORE = 1000 * _SECONDS["D"] - 1
"""In seconds: what is longer has more than three digits of days in the form in which it is returned."""

LATE = timedelta(seconds=60)
"""A reminder that goes out later than so long after its moment is marked as late. It goes out, however late."""


def is_late(remind_at: datetime, went_out_at: datetime) -> bool:
    """Return whether a reminder is marked as late."""
    return went_out_at - remind_at > LATE


def utc(moment: datetime) -> datetime:
    """The same moment in UTC. Raises ValueError for one that UTC cannot express (before year 1, after year 9999)."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("a moment between the years 1 and 9999, in UTC, is expected") from None


def seconds(before: str) -> int:
    """Return how long a duration is, which `Before` accepts; a day has 24 hours."""
    return sum(int(count) * _SECONDS[unit] for count, unit in re.findall(r"([0-9]{1,6})([WDHMS])", before))


def duration(seconds: int) -> str:
    """Return the duration of ISO 8601 that is so long, in the largest units but weeks."""
    left, parts = seconds, {}
    for unit in "DHMS":
        parts[unit], left = divmod(left, _SECONDS[unit])
    days, *time = (f"{count}{unit}" if count else "" for unit, count in parts.items())
    return f"P{days}" + (f"T{''.join(time)}" if any(time) else "") if seconds else "PT0S"


class Reminder(Struct, frozen=True, forbid_unknown_fields=True):
    """When the owner is reminded of a task: `at` a moment, or so long `before` it is due."""

    at: Moment | UnsetType = UNSET
    before: Before | UnsetType = UNSET

    def __post_init__(self) -> None:
        if (self.at is UNSET) == (self.before is UNSET):
            raise ValueError("has to have either `at` or `before`")
        if isinstance(self.at, datetime):
            msgspec.structs.force_setattr(self, "at", utc(self.at))
        if isinstance(self.before, str):
            length = seconds(self.before)
            if length > LONGEST_BEFORE:
                raise ValueError("less than 1000 days before the due date is expected")
            msgspec.structs.force_setattr(self, "before", duration(length))


Reminders = Annotated[
    list[Annotated[Reminder, Meta(extra_json_schema={"minProperties": 1, "maxProperties": 1})]],
    Meta(max_length=MOST_REMINDERS, description="each counts once"),
]
