"""Tasks as a calendar of to-dos (iCalendar, RFC 5545 and RFC 7986).

A recurring task is one to-do with its rule until it is completed: what follows is another task then. Its time is local,
with the definition of its time zone in front; all other times are in UTC.

This module writes the lines itself, in a fifth of the time that a library needs. One reads those of other programs
(`calendar_import`).
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import blake2b
from itertools import chain, pairwise
from uuid import NAMESPACE_OID, UUID, uuid5
from zoneinfo import ZoneInfo

from sqlalchemy import Connection

from task_api.store import tasks as store
from task_api.store import usage
from task_api.tasks import recurrence, service
from task_api.tasks.model import LARGEST_PAGE, CalendarTooLarge, Reminder, Task, TaskQuery, Versioned
from task_core import changes
from task_core.database import Database

MOST_TASKS, MOST_BYTES = 20_000, 8 << 20
"""How many tasks, and how many bytes of their texts, are in a calendar at most.

A server keeps what a slow client has not taken yet.
"""

PROJECT = "X-TASK-API-PROJECT"
STATUS = {"pending": "NEEDS-ACTION", "in_progress": "IN-PROCESS", "completed": "COMPLETED"}
PRIORITY = {"high": 1, "normal": 5, "low": 9}
_BEGIN = (
    "BEGIN:VCALENDAR",
    "VERSION:2.0",
    "PRODID:-//Task API//Tasks//EN",
    "NAME:Tasks",
    "X-WR-CALNAME:Tasks",  # what clients knew before RFC 7986
    "REFRESH-INTERVAL;VALUE=DURATION:PT1H",
    "X-PUBLISHED-TTL:PT1H",
)
_FORM = 2
"""To be raised with each change of what is written, which the tasks' versions do not show."""

LONGEST_LINE = 75
"""Bytes of a line, beyond which it goes on in the next one."""

_ESCAPED = {
    **{code: "\ufffd" for code in (*range(0x20), 0x7F) if code != ord("\t")},  # RFC 5545 has no place for these
    ord("\n"): r"\n",
    ord("\r"): r"\n",
    ord("\\"): r"\\",
    ord(";"): r"\;",
    ord(","): r"\,",
}
_FIRST_ONSET, _LAST_ONSET = datetime(1970, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
_STEP = timedelta(days=7)
"""Shorter than a time zone keeps an offset; Morocco does for a month."""


def entity_tag(connection: Connection, owner_id: int) -> str:
    """Return the weak entity tag of an account's calendar, as `write` writes it afterwards or later.

    Raises CalendarTooLarge.
    """
    used = usage.of(connection, owner_id)
    if used.tasks > MOST_TASKS or used.bytes > MOST_BYTES:
        raise CalendarTooLarge(
            f"a calendar has at most {MOST_TASKS} tasks and {MOST_BYTES >> 20} MiB of text,"
            f" and the account has {used.tasks} tasks with {used.bytes} bytes"
        )
    state = (_FORM, changes.generation(connection), *store.state(connection, owner_id))
    return f'W/"{blake2b(repr(state).encode(), digest_size=12).hexdigest()}"'


def write(database: Database, owner_id: int) -> Iterator[bytes]:
    """Yield the calendar of an account, a page of tasks at a time: a slow reader holds no connection."""
    yield b"".join(map(_folded, _BEGIN))
    zones: set[str] = set()
    query: TaskQuery | None = TaskQuery(limit=LARGEST_PAGE)
    while query:
        with database.read() as connection:
            tasks, cursor = service.page(connection, owner_id, query)
            done = [one.task.id for one in tasks if one.task.status == "completed"]
            completed = changes.status_changed(connection, done) if done else {}
            name = changes.generation(connection)
        lines = (_to_do(one, name, completed.get(one.task.id, one.task.created_at), zones) for one in tasks)
        yield b"".join(map(_folded, chain.from_iterable(lines)))
        query = TaskQuery(limit=LARGEST_PAGE, cursor=cursor) if cursor else None
    yield _folded("END:VCALENDAR")


def identity(database_name: str, task_id: int) -> UUID:
    """Return what other programs know a task by, for as long as it is in this database."""
    return uuid5(NAMESPACE_OID, f"{database_name}/{task_id}")


def _to_do(one: Versioned, database_name: str, completed_at: datetime, zones: set[str]) -> Iterator[str]:
    """Yield the lines of a task, with a time zone that is not in `zones` yet before them."""
    task = one.task
    when = _recurring(task) or _due(task)
    if when and task.time_zone and "TZID" in when[0] and task.time_zone not in zones:
        zones.add(task.time_zone)
        yield from _zone(task.time_zone)
    yield "BEGIN:VTODO"
    yield f"UID:{identity(database_name, task.id)}"
    yield f"DTSTAMP:{_utc(task.updated_at)}"
    yield f"CREATED:{_utc(task.created_at)}"
    yield f"LAST-MODIFIED:{_utc(task.updated_at)}"
    yield f"SEQUENCE:{one.version - 1}"
    yield f"SUMMARY:{_text(task.title)}"
    if task.description:
        yield f"DESCRIPTION:{_text(task.description)}"
    yield f"STATUS:{STATUS[task.status]}"
    if task.status == "completed":
        yield f"COMPLETED:{_utc(completed_at)}"
        yield "PERCENT-COMPLETE:100"
    yield f"PRIORITY:{PRIORITY[task.priority]}"
    yield from when
    if task.labels:
        yield f"CATEGORIES:{','.join(map(_text, task.labels))}"
    if task.project is not None:
        yield f"{PROJECT};VALUE=TEXT:{_text(task.project)}"
    for reminder in task.reminders:
        yield "BEGIN:VALARM"
        yield "ACTION:DISPLAY"
        yield f"DESCRIPTION:{_text(task.title)}"
        yield f"TRIGGER{_trigger(reminder)}"
        yield "END:VALARM"
    yield "END:VTODO"


def _trigger(reminder: Reminder) -> str:
    """Return when an alarm comes: RELATED=END is DUE."""
    if isinstance(reminder.at, datetime):
        return f";VALUE=DATE-TIME:{_utc(reminder.at)}"
    return f";RELATED=END:-{reminder.before}"


def _due(task: Task) -> list[str]:
    return [f"DUE:{_utc(task.due_at)}"] if task.due_at else []


def _recurring(task: Task) -> list[str]:
    """Return when a task is due and how it recurs; nothing where it does not, or where it cannot be written so."""
    if task.recurrence is None or task.due_at is None or task.status == "completed":
        return []
    try:
        start = task.due_at.astimezone(recurrence.zone(task.time_zone))
        rule = recurrence.for_calendars(task.recurrence, task.time_zone, start)
    except (ValueError, OverflowError):  # kept by a version that knew more; beyond the years that datetime has
        return []
    if not rule or start.fold:  # a local time that comes twice means the first one
        return []
    zone, text = (f";TZID={task.time_zone}", _local(start)) if task.time_zone else ("", _utc(start))
    return [f"DTSTART{zone}:{text}", f"DUE{zone}:{text}", f"RRULE:{rule}"]


def _local(moment: datetime) -> str:
    """Return a local time as RFC 5545 has it, to the second."""
    return moment.replace(tzinfo=None, microsecond=0).isoformat().replace("-", "").replace(":", "")


def _utc(moment: datetime) -> str:
    return f"{_local(moment)}Z"


def _text(text: str) -> str:
    return text.replace("\r\n", "\n").translate(_ESCAPED)


def _folded(line: str) -> bytes:
    """Return a line in pieces that are short enough, and none of which ends within a character."""
    data = line.encode()
    pieces: list[bytes] = []
    while len(data) > LONGEST_LINE - bool(pieces):
        end = LONGEST_LINE - bool(pieces)
        while data[end] & 0xC0 == 0x80:  # noqa: PLR2004 - a byte within a character of UTF-8
            end -= 1
        pieces.append(data[:end])
        data = data[end:]
    return b"\r\n ".join([*pieces, data]) + b"\r\n"


@cache
def _zone(name: str) -> tuple[str, ...]:
    """Return the lines that define a time zone: each change of its offset from 1970 to 2100."""
    zone = recurrence.zone(name)
    kinds: defaultdict[tuple[str, str, str, str], list[str]] = defaultdict(list)
    first = _FIRST_ONSET.astimezone(zone)
    kinds["STANDARD", _offset(first), _offset(first), first.tzname() or name].append(_local(first))
    steps = (
        (_FIRST_ONSET + number * _STEP).astimezone(zone) for number in range((_LAST_ONSET - _FIRST_ONSET) // _STEP)
    )
    for before, after in pairwise(steps):
        if before.utcoffset() != after.utcoffset():
            onset = _onset(zone, before.astimezone(UTC), after.astimezone(UTC))
            old, new = (onset - timedelta(seconds=1)).astimezone(zone), onset.astimezone(zone)
            kind = "DAYLIGHT" if new.dst() else "STANDARD"
            local = old + timedelta(seconds=1)  # by the clock that is about to be changed
            kinds[kind, _offset(old), _offset(new), new.tzname() or name].append(_local(local))
    return (
        "BEGIN:VTIMEZONE",
        f"TZID:{name}",
        *chain.from_iterable(
            (
                f"BEGIN:{kind}",
                f"DTSTART:{onsets[0]}",
                *([f"RDATE:{','.join(onsets[1:])}"] if onsets[1:] else []),
                f"TZOFFSETFROM:{before}",
                f"TZOFFSETTO:{after}",
                f"TZNAME:{_text(label)}",
                f"END:{kind}",
            )
            for (kind, before, after, label), onsets in kinds.items()
        ),
        "END:VTIMEZONE",
    )


def _onset(zone: ZoneInfo, before: datetime, after: datetime) -> datetime:
    """Return the moment between two at which the offset changes, to the second."""
    offset = before.astimezone(zone).utcoffset()
    while after - before > timedelta(seconds=1):
        middle = before + (after - before) // 2
        middle = middle.replace(microsecond=0)
        if middle.astimezone(zone).utcoffset() == offset:
            before = middle
        else:
            after = middle
    return after


def _offset(moment: datetime) -> str:
    return re.sub(r"[^+\-0-9]", "", f"{moment:%z}")
