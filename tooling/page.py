"""HTML pages for people: self-contained, readable in light and dark, fetching nothing."""

from datetime import UTC, datetime
from pathlib import Path

import jinja2

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **context: object) -> str:
    """Return a whole HTML page. `template` extends base.html: a name in tooling/templates, or an absolute path.

    Everything in `context` is escaped; wrap ready-made HTML (a figure) in `markupsafe.Markup`.
    A name that the template uses and `context` lacks raises `jinja2.UndefinedError`.
    """
    path = Path(template)
    folders = [TEMPLATES, path.parent] if path.is_absolute() else [TEMPLATES]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["when"] = when
    environment.filters["duration"] = duration
    return environment.get_template(path.name if path.is_absolute() else template).render(context)


def when(moment: datetime) -> str:
    """Write a moment to the minute, in UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def duration(seconds: float) -> str:
    """Write a length of time with the unit that suits it: 0.4 s, 12 s, 3 min 05 s, 5 h 10 min, 12 days."""
    if seconds < 10:  # noqa: PLR2004 - below ten, one decimal matters
        return f"{seconds:.1f} s"
    whole = round(seconds)
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if days >= 2:  # noqa: PLR2004
        return f"{days} days"
    if hours:
        return f"{hours} h {minutes % 60:02} min"
    return f"{minutes} min {whole % 60:02} s" if minutes else f"{whole} s"
