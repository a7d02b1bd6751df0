"""To-dos that other programs have written (iCalendar, RFC 5545), as tasks.

What a task has no place for is left out and counted, such as a place. What would make another task of it is a fault,
such as a rule that is not supported: then nothing of the calendar is taken.
"""

import re
import warnings
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple, cast
from zoneinfo import ZoneInfo

import icalendar
import msgspec
from icalendar.error import GloballyUniqueTZIDGuessed
from icalendar.timezone.windows_to_olson import WINDOWS_TO_OLSON
from sqlalchemy import Connection

from task_api.tasks import recurrence, service
from task_api.tasks.calendar import PROJECT, STATUS
from task_api.tasks.model import NewTask, Priority, Reminder, Status
from task_core.reminder import LONGEST_BEFORE, MOST_REMINDERS, duration

# what cannot be read is in `errors` then, beside the other faults
icalendar.Todo.ignore_exceptions = icalendar.Alarm.ignore_exceptions = True

MOST_TO_DOS, MOST_BYTES = 5_000, 32 << 20
"""How many to-dos, and how many bytes, are read at most."""

LONGEST_DETAIL = 300
_STATUS: dict[str, Status] = {name: status for status, name in STATUS.items()} | {"CANCELLED": "completed"}  # type: ignore[assignment]
_TAKEN = {"SUMMARY", "DESCRIPTION", "STATUS", "PRIORITY", "DUE", "DURATION", "CATEGORIES"}
_NOT_NEEDED = {"UID", "DTSTAMP", "CREATED", "LAST-MODIFIED", "SEQUENCE", "COMPLETED", "PERCENT-COMPLETE"}
"""They describe the other program's copy; a task has its own of them."""

_KNOWN = {"VCALENDAR", "VTODO", "VTIMEZONE", "STANDARD", "DAYLIGHT"}

_CHANGING = ("RECURRENCE-ID", "EXDATE", "RDATE", "EXRULE")
"""These make exceptions from a rule, which a task cannot have."""

_OF_DAYS, _OF_TIMES = {"BYDAY", "BYMONTHDAY", "BYSETPOS", "BYMONTH"}, {"BYHOUR", "BYMINUTE"}
_FIELDS = {"title": "SUMMARY", "description": "DESCRIPTION", "labels": "CATEGORIES", "project": PROJECT}
_PROPERTIES = {**_FIELDS, "recurrence": "RRULE", "time_zone": "TZID", "due_at": "DUE"}


class CalendarFaults(Exception):
    """The calendar cannot be taken, for these reasons, a line for each."""

    def __init__(self, *faults: str) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class ToDos(NamedTuple):
    """The tasks of a calendar, and what was left out: how many of each component and property."""

    tasks: list[NewTask]
    left_out: Counter[str]


class Moment(NamedTuple):
    """A time in its own time zone, whose name is None for UTC."""

    at: datetime
    zone: str | None


def read(content: bytes, floating: str | None = None) -> ToDos:
    """Return the to-dos of calendars. Raises CalendarFaults with the faults of all.

    Times without a time zone are in `floating`, by default the one that the calendar names (X-WR-TIMEZONE), or UTC.
    """
    every = [(calendar, to_do) for calendar in _calendars(content) for to_do in calendar.walk("VTODO")]
    if len(every) > MOST_TO_DOS:
        raise CalendarFaults(
            f"a calendar has at most {MOST_TO_DOS} to-dos, and this one {len(every)}: import it in parts"
        )
    tasks, faults, left_out = [], [], Counter[str]()
    for number, (calendar, to_do) in enumerate(every, 1):
        try:
            tasks.append(_task(to_do, floating or str(calendar.get("X-WR-TIMEZONE", "")) or None))
        except (ValueError, OverflowError) as error:
            name = str(to_do.get("SUMMARY", "")) or f"UID {to_do.get('UID')}"
            faults.append(f"to-do {number}, {name[:60]!r}: {str(error)[:LONGEST_DETAIL]}")
    if faults:
        raise CalendarFaults(*faults)
    left_out.update(name for _, to_do in every for name in _left_out(to_do))
    parts = {id(calendar): calendar for calendar, _ in every}.values()
    left_out.update(one.name for calendar in parts for one in calendar.walk() if one.name not in _KNOWN)
    left_out["VALARM"] -= sum(len(task.reminders) for task in tasks)
    return ToDos(tasks, +left_out)


def _left_out(to_do: Any) -> Iterator[str]:
    """Yield the properties that a task has no place for."""
    start, due = to_do.get("DTSTART"), to_do.get("DUE")
    taken = {*_TAKEN, *_NOT_NEEDED}
    if "RRULE" in to_do and _status(to_do) != "completed":  # a series that is done has no next task
        taken.add("RRULE")
    if "DURATION" in to_do or start == due or (due is None and "RRULE" in taken):
        taken.add("DTSTART")
    yield from (name for name in to_do if name not in taken and not name.startswith("X-"))


def create(connection: Connection, owner_id: int, to_dos: ToDos) -> None:
    """Make the tasks for their owner."""
    service.create_all(connection, owner_id, to_dos.tasks)


def _calendars(content: bytes) -> list[Any]:
    if len(content) > MOST_BYTES:
        raise CalendarFaults(f"a calendar has at most {MOST_BYTES >> 20} MiB: import it in parts")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CalendarFaults("a calendar is a text in UTF-8 (RFC 5545, section 3.1.4)") from None
    try:
        with warnings.catch_warnings(action="ignore", category=GloballyUniqueTZIDGuessed):
            calendars = cast("list[Any]", icalendar.Calendar.from_ical(text, multiple=True))
    except AttributeError:  # icalendar expects one value of a parameter such as VALUE
        raise CalendarFaults("this is no calendar: a parameter has several values where one is expected") from None
    except (ValueError, TypeError, OSError, RecursionError) as error:  # a TZID may name a folder, or be endless
        raise CalendarFaults(f"this is no calendar: {str(error)[:LONGEST_DETAIL]}") from None
    begun = sum(line.strip().upper() == "BEGIN:VCALENDAR" for line in text.split("\n"))
    if not calendars or begun != len(calendars) or any(one.name != "VCALENDAR" for one in calendars):
        raise CalendarFaults("this is no whole calendar: BEGIN:VCALENDAR has to be first, and END:VCALENDAR last")
    return calendars


def _task(to_do: Any, floating: str | None) -> NewTask:
    """Return the task of a to-do. Raises ValueError."""
    if to_do.errors:
        raise ValueError("; ".join(f"{name} cannot be read: {detail}" for name, detail in to_do.errors))
    status = _status(to_do)
    title = str(_one(to_do, "SUMMARY", str) or "").strip()
    if not title:
        raise ValueError("SUMMARY is missing: a task has a title")
    values: dict[str, Any] = {
        "title": title,
        "description": str(_one(to_do, "DESCRIPTION", str) or ""),
        "status": status,
        "priority": _priority(to_do),
        "project": str(_one(to_do, PROJECT, str) or "").strip() or None,
        "labels": _labels(to_do),
        **_when(to_do, floating, recurs="RRULE" in to_do and status != "completed"),
    }
    values["reminders"] = _reminders(to_do, values["due_at"], floating)
    try:
        new = msgspec.convert(values, NewTask)
    except msgspec.ValidationError as error:
        raise ValueError(
            re.sub(r"`\$\.?(\w*)", lambda path: f"`{_PROPERTIES.get(path[1], path[1])}", str(error))
        ) from None
    faults = recurrence.faults(new.recurrence, new.time_zone, new.due_at)
    if faults:
        raise ValueError("; ".join(f"{_PROPERTIES[name]}: {detail}" for name, detail in faults.items()))
    return new


def _one(to_do: Any, name: str, kind: type) -> Any:
    value = to_do.get(name)
    if isinstance(value, list):
        raise ValueError(f"{name} is there {len(value)} times")  # noqa: TRY004 - a fault of what is read
    if value is not None and not isinstance(value, kind):
        raise ValueError(f"{name} has another type of value (VALUE) than RFC 5545 lets it have")
    return value


def _labels(to_do: Any) -> list[str]:
    categories = to_do.get("CATEGORIES", [])
    lists = categories if isinstance(categories, list) else [categories]
    if not all(isinstance(each, icalendar.vCategory) for each in lists):
        raise ValueError("CATEGORIES cannot be read with a type of value (VALUE): leave that out")
    return sorted({label for each in lists for one in each.cats if (label := str(one).strip())})


def _status(to_do: Any) -> Status:
    status = str(_one(to_do, "STATUS", str) or "").upper()
    if status:
        if status not in _STATUS:
            raise ValueError(f"STATUS has to be one of {', '.join(_STATUS)}")
        return _STATUS[status]
    done = int(_one(to_do, "PERCENT-COMPLETE", int) or 0)
    if "COMPLETED" in to_do or done >= 100:  # noqa: PLR2004 - per cent
        return "completed"
    return "in_progress" if done else "pending"


def _priority(to_do: Any) -> Priority:
    number = int(_one(to_do, "PRIORITY", int) or 0)
    if not 0 <= number <= 9:  # noqa: PLR2004 - RFC 5545, section 3.8.1.9
        raise ValueError("PRIORITY has to be a number from 0 to 9")
    return "normal" if number in {0, 5} else "high" if number < 5 else "low"  # noqa: PLR2004


def _when(to_do: Any, floating: str | None, *, recurs: bool) -> dict[str, Any]:
    """Return `due_at`, and where it recurs `recurrence` and `time_zone`."""
    for name in _CHANGING:
        if name in to_do:
            raise ValueError(f"{name} is not supported: a series of tasks has no exceptions")
    start, due, duration = (_one(to_do, name, icalendar.vDDDTypes) for name in ("DTSTART", "DUE", "DURATION"))
    begin = _moment(start, floating, whole_day=time.min) if start is not None else None
    end = _moment(due, floating) if due is not None else None
    if duration is not None:
        if end or not begin:
            raise ValueError("DURATION needs DTSTART, and no DUE")
        if not isinstance(duration.dt, timedelta):
            raise ValueError("DURATION has to be a length of time such as PT1H")
        later = begin.at + timedelta(days=duration.dt.days)  # a day has its own length, an hour has not
        exact = (later.astimezone(UTC) + timedelta(seconds=duration.dt.seconds)).astimezone(later.tzinfo)
        end = Moment(exact, begin.zone)
    if not recurs:
        return {"due_at": end and end.at}
    end = end or (start is not None and _moment(start, floating)) or None
    if not end:
        raise ValueError("RRULE needs DTSTART or DUE")
    begin = begin or end
    rule = _rule(_one(to_do, "RRULE", icalendar.vRecur), begin.at.astimezone(end.at.tzinfo), end.at)
    return {"due_at": end.at, "recurrence": rule, "time_zone": end.zone}


def _reminders(to_do: Any, due_at: datetime | None, floating: str | None) -> list[Reminder]:
    """Return a reminder for each alarm that a task can have, each moment once.

    A task cannot have one after it is due, and none that counts from DTSTART where it has no due date.
    """
    start = _one(to_do, "DTSTART", icalendar.vDDDTypes)
    begin = _moment(start, floating, whole_day=time.min).at if start is not None else due_at
    reminders = []
    for alarm in to_do.walk("VALARM"):
        trigger: Any = None if alarm.errors else alarm.get("TRIGGER")
        when = getattr(trigger, "dt", None)
        if isinstance(when, timedelta) and due_at and begin:
            of_start = str(trigger.params.get("RELATED", "START")).upper() != "END"
            before = (due_at - begin if of_start else timedelta()).total_seconds() - when.total_seconds()
            if 0 <= before <= LONGEST_BEFORE:
                reminders.append(Reminder(before=duration(int(before))))
        elif isinstance(when, datetime) and when.tzinfo:
            reminders.append(Reminder(at=when))
    return list(dict.fromkeys(reminders))[:MOST_REMINDERS]


def _moment(value: Any, floating: str | None, whole_day: time = time(23, 59, 59)) -> Moment:
    """Return the time of a property; a day is due at its end."""
    at, name = value.dt, value.params.get("TZID")
    if not isinstance(at, date):
        raise ValueError("DTSTART and DUE have to be a day or a time")  # noqa: TRY004 - a fault of what is read
    if not isinstance(at, datetime):
        at, name = datetime.combine(at, whole_day), floating
    elif name is None and at.tzinfo is None:
        name = floating
    if name is None:
        return Moment(at.replace(tzinfo=at.tzinfo or UTC), None)
    zone = _zone(name)
    if zone is None and at.tzinfo is None:
        raise ValueError(f"TZID {name!r} is neither a name of the IANA database nor defined in the calendar")
    if zone is not None:
        at = at.replace(tzinfo=zone)
    return Moment(at, None if zone and zone.key == "UTC" else zone.key if zone else name)


def _zone(name: str) -> ZoneInfo | None:
    """Return the time zone of a name, also as Evolution (a path before it) and Outlook write it."""
    for known in (name, WINDOWS_TO_OLSON.get(name, ""), *_ends(name)):
        try:
            return recurrence.zone(known)
        except ValueError:
            continue
    return None


def _ends(path: str) -> Iterator[str]:
    """Yield the last three and the last two parts of a path: America/Argentina/Ushuaia, Europe/Berlin."""
    parts = path.split("/")
    return ("/".join(parts[-count:]) for count in (3, 2) if len(parts) > count)


def _rule(rule: Any, begin: datetime, end: datetime) -> str:
    """Return a rule that counts from DUE, as tasks do, of one that counts from DTSTART. Raises ValueError."""
    parts = dict(part.split("=", 1) for part in rule.to_ical().decode().split(";"))
    other_day = begin.date() != end.date()
    if (other_day and (_OF_DAYS & parts.keys() or parts.get("FREQ") in {"MONTHLY", "YEARLY"})) or (
        _OF_TIMES & parts.keys() and begin != end
    ):
        raise ValueError("RRULE counts from DTSTART, and names days or times of it that are not those of DUE")
    (until,) = rule.get("UNTIL", [None])
    if isinstance(until, datetime):
        last = until.replace(tzinfo=until.tzinfo or begin.tzinfo).astimezone(UTC) + (end - begin)
        parts["UNTIL"] = f"{last:%Y%m%dT%H%M%SZ}".zfill(len("YYYYMMDDTHHMMSSZ"))
    elif until:
        parts["UNTIL"] = f"{until + (end.date() - begin.date()):%Y%m%d}".zfill(len("YYYYMMDD"))
    text = ";".join(f"{name}={value}" for name, value in parts.items())
    parsed = recurrence.parse(text)
    if "COUNT" in parts and not recurrence.names(parsed, end):  # a task counts itself, calendars do not then
        text = text.replace(f"COUNT={parts['COUNT']}", f"COUNT={int(parts['COUNT']) + 1}")
    return text
