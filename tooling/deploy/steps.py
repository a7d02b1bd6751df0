"""The steps of a long task: shown while they run, timed, and kept as a record."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console

from tooling import page

Log = Callable[[str], None]
"""Shows what a step is waiting for right now."""


@dataclass
class Step:
    """One step: seconds from the task's start, and how it ended."""

    name: str
    start: float
    end: float = 0.0
    outcome: str = "running"
    note: str = ""


@dataclass
class Steps:
    """Runs steps one after the other. On a terminal the running one is a live line, elsewhere each news is a line."""

    title: str
    console: Console = field(default_factory=lambda: Console(highlight=False))
    done: list[Step] = field(default_factory=list)
    marks: dict[str, float] = field(default_factory=dict)
    began_at: float = field(default_factory=time.time)
    _began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """The time since the start."""
        return time.monotonic() - self._began

    def mark(self, name: str) -> None:
        """Keep the moment at which something was reached."""
        self.marks[name] = self.seconds

    def log(self, text: str) -> None:
        """Print a line between the steps."""
        self.console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def step(self, name: str) -> Iterator[Log]:
        """Run one step; its outcome is `failed` when the block raises."""
        step = Step(name, self.seconds)
        self.done.append(step)
        with self.console.status(name) as status:

            def log(news: str) -> None:
                if news == step.note:
                    return
                step.note = news
                status.update(f"{name}: {news}")
                if not self.console.is_terminal:
                    self.console.print(f"  {name}: {news}", markup=False, soft_wrap=True)

            try:
                yield log
            except BaseException:
                step.outcome = "failed"
                raise
            else:
                step.outcome = "done"
            finally:
                step.end = self.seconds
                self._print(step)

    def _print(self, step: Step) -> None:
        colour, sign = ("green", "done") if step.outcome == "done" else ("red", "FAILED")
        note = f"  {step.note}" if step.note else ""
        self.console.print(f"[{colour}]{sign:>6}[/] {step.end - step.start:6.1f} s  {step.name}", end="")
        self.console.print(note, markup=False, style="dim", soft_wrap=True)

    def write(self, folder: Path, error: str = "") -> None:
        """Write the record as JSON, and as a page that draws the steps over time; `error` ended it early."""
        folder.mkdir(parents=True, exist_ok=True)
        record = {
            "title": self.title,
            "began_at": self.began_at,
            "seconds": self.seconds,
            "marks": self.marks,
            "steps": [asdict(step) for step in self.done],
            "error": error,
        }
        (folder / "deploy.json").write_text(json.dumps(record, indent=2))
        (folder / "deploy.html").write_text(page.render("deploy.html", **record))
