"""When a task that is completed comes again: a rule of iCalendar (RFC 5545, section 3.3.10), read in a time zone.

A rule counts from the due date of its task, as DTSTART. The next task has the next occurrence as its due date, and its
rule goes on from there: COUNT is one less. The time of day is that of the time zone, whatever its offset is then.

Only rules are accepted whose next occurrence is known after a few steps: `following` never searches further.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import MAXYEAR, UTC, date, datetime, time
from functools import cache
from importlib.resources import files
from itertools import takewhile
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from dateutil import rrule

LONGEST_RULE = 200
SEARCHED = 16
"""How many months or years of a rule are searched for the next occurrence."""

_BEYOND = 200_000
"""An interval after whose first step `dateutil` stops: without a match it would go on to the year 9999."""

_DAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
_DAY = re.compile(r"([+-]?[1-5])?(MO|TU|WE|TH|FR|SA|SU)")
_UNTIL = re.compile(r"\d{8}(T\d{6}Z)?")
_NUMBER = re.compile(r"[+-]?\d{1,4}")
_FREQUENCIES = {"DAILY": rrule.DAILY, "WEEKLY": rrule.WEEKLY, "MONTHLY": rrule.MONTHLY, "YEARLY": rrule.YEARLY}
_SINGLE = {"INTERVAL": (1, 999), "COUNT": (1, 9999), "BYHOUR": (0, 23), "BYMINUTE": (0, 59)}
_LISTS = {"BYMONTH": (1, 12), "BYMONTHDAY": (-31, 31), "BYSETPOS": (-366, 366)}
_OF_ALL = {"FREQ", "INTERVAL", "COUNT", "UNTIL", "WKST", "BYHOUR", "BYMINUTE"}
_PARTS = {
    "DAILY": _OF_ALL,
    "WEEKLY": _OF_ALL | {"BYDAY"},
    "MONTHLY": _OF_ALL | {"BYDAY", "BYMONTHDAY", "BYSETPOS"},
    "YEARLY": _OF_ALL | {"BYDAY", "BYMONTHDAY", "BYSETPOS", "BYMONTH"},
}


class Rule(NamedTuple):
    """A rule that is supported: its parts as they are written, and what they mean."""

    parts: Mapping[str, str]
    values: Mapping[str, Any]


class Occurrence(NamedTuple):
    """When a task is due next, and the rule from there on."""

    due_at: datetime
    rule: str


def parse(text: str) -> Rule:
    """Return the rule of a text. Raises ValueError for one that is malformed or not supported, with what to do."""
    parts: dict[str, str] = {}
    for part in text.split(";"):
        name, _, value = part.partition("=")
        if name in parts:
            raise ValueError(f"{name} is there twice")
        parts[name] = value
    frequency = parts.get("FREQ")
    if frequency not in _PARTS:
        raise ValueError(f"FREQ has to be one of {', '.join(_PARTS)}")
    for name in parts.keys() - _PARTS[frequency]:
        raise ValueError(f"{name} is not supported with FREQ={frequency}: leave it out, or use another FREQ")
    values = {name: _value(name, value) for name, value in parts.items()}
    _check_together(frequency, values)
    return Rule(parts, values)


def _value(name: str, text: str) -> Any:
    if name == "FREQ":
        return _FREQUENCIES[text]
    if name == "UNTIL":
        return _until(text)
    if name == "WKST":
        if text not in _DAYS:
            raise ValueError(f"WKST has to be one of {', '.join(_DAYS)}")
        return _DAYS.index(text)
    if name == "BYDAY":
        return [_weekday(day) for day in text.split(",")]
    if name in _SINGLE:
        return _number(name, text, *_SINGLE[name])
    least, most = _LISTS[name]
    return [_number(name, one, least, most) for one in text.split(",")]


def _number(name: str, text: str, least: int, most: int) -> int:
    number = int(text) if _NUMBER.fullmatch(text) else None
    if number is None or not least <= number <= most or (least < 0 and number == 0):
        besides = ", but not 0" if least < 0 else ""
        several = ", or several with commas between them" if name in _LISTS else ""
        raise ValueError(f"{name} has to be a number from {least} to {most}{besides}{several}")
    return number


def _weekday(text: str) -> rrule.weekday:
    match = _DAY.fullmatch(text)
    if match is None:
        raise ValueError(f"BYDAY has to be of {', '.join(_DAYS)}, in a month also such as 1MO or -1FR")
    number, day = match.groups()
    return rrule.weekday(_DAYS.index(day), int(number) if number else None)


def _until(text: str) -> datetime:
    """Return a moment, which is naive where the text is a day: the end of that day in the task's time zone."""
    try:
        if _UNTIL.fullmatch(text) is None:
            raise ValueError
        if len(text) == len("YYYYMMDD"):
            return datetime.combine(date.fromisoformat(text), time.max)
        return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise ValueError(
            "UNTIL has to be a day such as 20301231, or a moment in UTC such as 20301231T120000Z"
        ) from None


def _check_together(frequency: str, values: Mapping[str, Any]) -> None:
    if {"COUNT", "UNTIL"} <= values.keys():
        raise ValueError("COUNT and UNTIL exclude each other")
    if frequency == "WEEKLY" and any(day.n for day in values.get("BYDAY", ())):
        raise ValueError("BYDAY has no numbers with FREQ=WEEKLY")
    days = {"BYDAY", "BYMONTHDAY"} & values.keys()
    if frequency == "YEARLY" and days and "BYMONTH" not in values:
        raise ValueError(f"{min(days)} needs BYMONTH with FREQ=YEARLY")
    if "BYSETPOS" in values and not days:
        raise ValueError("BYSETPOS needs BYDAY or BYMONTHDAY")


@cache
def _zone_names() -> frozenset[str]:
    """The names of `tzdata`: the same on each machine."""
    return frozenset((files("tzdata") / "zones").read_text().split())


def zone(name: str | None) -> ZoneInfo:
    """Return the time zone of an IANA name, UTC for None. Raises ValueError for another name."""
    if name is None:
        return ZoneInfo("UTC")
    if name not in _zone_names():
        raise ValueError("no time zone of the IANA database has this name: send one such as Europe/Berlin")
    return ZoneInfo(name)


def faults(text: str | None, zone_name: str | None, due_at: datetime | None) -> dict[str, str]:
    """Return what is wrong with a task's recurrence, by the names of its fields."""
    violations: dict[str, str] = {}
    rule, local = None, None
    try:
        rule = parse(text) if text is not None else None
    except ValueError as error:
        violations["recurrence"] = str(error)
    try:
        local = zone(zone_name)
    except ValueError as error:
        violations["time_zone"] = str(error)
    if text is not None and due_at is None:
        violations["due_at"] = "a task that recurs needs a due date: set `due_at`, or take `recurrence` away too"
    elif rule and local and due_at and next(_occurrences(rule, local, due_at), None) is None:
        violations["recurrence"] = f"after `due_at`, nothing follows in the next {SEARCHED} periods of the rule"
    return violations


def following(text: str, zone_name: str | None, due_at: datetime) -> Occurrence | None:
    """Return when a task that was due at `due_at` is due next, later than that; None where the series has ended.

    A time that the clock leaves out is one gap later, once: the rule of that occurrence keeps the time that it has
    else. A time that comes twice means the first one.
    """
    try:
        rule, local = parse(text), zone(zone_name)
    except ValueError:  # kept by a version that knew more
        return None
    count, until = rule.values.get("COUNT"), rule.values.get("UNTIL")
    wanted = None if count == 1 else next(_occurrences(rule, local, due_at), None)
    if wanted is None:
        return None
    due_next = wanted.replace(tzinfo=local).astimezone(UTC)
    if until and (wanted if until.tzinfo is None else due_next) > until:
        return None
    parts = dict(rule.parts)
    if count:
        parts["COUNT"] = str(count - 1)
    if due_next.astimezone(local).replace(tzinfo=None) != wanted:
        parts |= {"BYHOUR": str(wanted.hour), "BYMINUTE": str(wanted.minute)}
    following = ";".join(f"{name}={value}" for name, value in parts.items())
    return Occurrence(due_next, following if len(following) <= LONGEST_RULE else text)


def for_calendars(text: str, zone_name: str | None, start: datetime) -> str:
    """Return the rule as calendars read it beside DTSTART, `start` in the time zone; empty where nothing follows.

    For them UNTIL is a moment, and COUNT counts `start` only where the rule names it. Raises ValueError as `parse`.
    """
    rule, local = parse(text), zone(zone_name)
    parts, until, count = dict(rule.parts), rule.values.get("UNTIL"), rule.values.get("COUNT")
    if until and until < (start if until.tzinfo else start.replace(tzinfo=None)):
        return ""
    if until and until.tzinfo is None:
        try:
            last = until.replace(tzinfo=local).astimezone(UTC)
            parts["UNTIL"] = f"{last:%Y%m%dT%H%M%SZ}".zfill(len("YYYYMMDDTHHMMSSZ"))
        except OverflowError:  # at the end of the years that datetime has
            del parts["UNTIL"]
    if count:
        count -= not names(rule, start)
        parts["COUNT"] = str(count)
    return ";".join(f"{name}={value}" for name, value in parts.items()) if count != 0 else ""


def names(rule: Rule, start: datetime) -> bool:
    """Return whether a local time, from which the rule counts, is an occurrence of it too."""
    start = start.replace(tzinfo=None, microsecond=0)
    return start in takewhile(lambda one: one <= start, _from(rule, start))


def _occurrences(rule: Rule, local: ZoneInfo, due_at: datetime) -> Iterator[datetime]:
    """Yield the local times of the occurrences after `due_at`, without COUNT and UNTIL."""
    try:
        start = due_at.astimezone(local).replace(tzinfo=None)
        for one in _from(rule, start):
            wanted = one.replace(microsecond=start.microsecond)
            if wanted.replace(tzinfo=local).astimezone(UTC) > due_at:
                yield wanted
    except OverflowError:  # beyond the years that datetime has
        return


def _from(rule: Rule, start: datetime) -> Iterator[datetime]:
    """Yield the occurrences in the period of `start` and, in order, in those after it."""
    values = rule.values
    frequency, interval = values["FREQ"], values.get("INTERVAL", 1)
    by: dict[str, Any] = {
        "wkst": values.get("WKST", 0),
        "bymonth": values.get("BYMONTH", start.month if frequency == rrule.YEARLY else None),
        "bymonthday": values.get("BYMONTHDAY"),
        "byweekday": values.get("BYDAY"),
        "bysetpos": values.get("BYSETPOS"),
        "byhour": values.get("BYHOUR", start.hour),
        "byminute": values.get("BYMINUTE", start.minute),
        "bysecond": start.second,
    }
    if frequency in {rrule.DAILY, rrule.WEEKLY}:  # each step has an occurrence
        yield from rrule.rrule(frequency, start, interval, **by)
        return
    if not {"BYDAY", "BYMONTHDAY"} & values.keys():
        by["bymonthday"] = start.day
    midnight = start.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    for step in range(0, SEARCHED * interval, interval):
        years, month = divmod(start.month - 1 + step, 12) if frequency == rrule.MONTHLY else (step, 0)
        if start.year + years <= MAXYEAR:
            period = midnight.replace(year=start.year + years, month=month + 1)
            yield from rrule.rrule(frequency, period, _BEYOND, **by)
