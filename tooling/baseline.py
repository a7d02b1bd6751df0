"""The committed figures of `baseline.toml`: what each gate looks at, and what is excused.

A gate that looks at less, a test that is gone and a new `noqa` leave every other gate clean. `./dev baseline` writes
the figures anew; where one gets weaker it wants `--because "the reason"`, which stays until the next weakening.
"""

import tomllib
from pathlib import Path

import msgspec

from tooling.project import ROOT, ToolingError

BASELINE = ROOT / "baseline.toml"
RENEW = '`./dev baseline --because "the reason"` writes it anew'
Counts = dict[str, int]


class Baseline(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Figures of a checkout in which every gate is trusted."""

    because: str = ""
    """Why the last figure that got weaker did."""
    gates: Counts = {}
    """`STAGE/GATE`: at least so many targets."""
    canaries: Counts = {}
    """`STAGE/GATE`: at least so many planted defects."""
    tests: Counts = {}
    """A file: at least so many tests, each parameter's own."""
    skips: Counts = {}
    """`FILE::FUNCTION`: at most so many skipped tests, for what a machine lacks."""
    excuses: dict[str, Counts] = {}
    """A file: at most so many excuses of each kind."""
    configuration: dict[str, str] = {}
    """A file or a table that configures gates: its digest."""

    def weakened(self, newer: "Baseline") -> list[str]:
        """Return each figure in which `newer` requires less or excuses more, as one line."""
        lines = []
        for name, least in (("gates", "targets"), ("canaries", "canaries"), ("tests", "tests")):
            before, after = getattr(self, name), getattr(newer, name)
            lines += [
                f"{key}: {after.get(key, 0)} {least} instead of {n}"
                for key, n in before.items()
                if after.get(key, 0) < n
            ]
        excused = {f"{path}: {kind}": n for path, kinds in newer.excuses.items() for kind, n in kinds.items()}
        known = {f"{path}: {kind}": n for path, kinds in self.excuses.items() for kind, n in kinds.items()}
        for before, after in ((self.skips, newer.skips), (known, excused)):
            lines += [
                f"{key}: {n} instead of {before.get(key, 0)}" for key, n in after.items() if n > before.get(key, 0)
            ]
        return lines + [f"{key} has changed" for key in self.changed(newer.configuration)]

    def changed(self, configuration: dict[str, str]) -> list[str]:
        """Return the places whose configuration differs. A service that has no figure yet configures itself alone."""
        known = {key.split("/")[1] for key in self.configuration if key.startswith("services/")}
        return [
            key
            for key in sorted(self.configuration.keys() | configuration.keys())
            if self.configuration.get(key) != configuration.get(key)
            and not (key.startswith("services/") and key.split("/")[1] not in known)
        ]


def parse(text: str, name: str = BASELINE.name) -> Baseline:
    """Read the figures; raise `ToolingError` naming the mistake where they cannot be read."""
    try:
        return msgspec.convert(tomllib.loads(text), Baseline)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ToolingError(f"{name}: {error}") from error


def read(path: Path = BASELINE) -> Baseline:
    """Read the committed figures; raise `ToolingError` where there are none, or where they have a mistake."""
    try:
        return parse(path.read_text(), path.name)
    except OSError as error:
        raise ToolingError(f"{path.name}: {error.strerror}: {RENEW}") from error


def render(figures: Baseline) -> str:
    """Write the figures as TOML, sorted, one a line."""

    def quoted(text: str) -> str:
        return msgspec.json.encode(text).decode().replace("\x7f", "\\u007f")  # else a JSON string is a TOML one

    lines = ["# Figures that weaken only with a reason: see docs/pipeline.md. `./dev baseline` writes this file."]
    lines += [f"because = {quoted(figures.because)}"]
    for name in ("gates", "canaries", "tests", "skips"):
        lines += ["", f"[{name}]", *(f"{quoted(key)} = {n}" for key, n in sorted(getattr(figures, name).items()))]
    lines += ["", "[excuses]"]
    for path, kinds in sorted(figures.excuses.items()):
        counts = ", ".join(f"{quoted(kind)} = {n}" for kind, n in sorted(kinds.items()))
        lines.append(f"{quoted(path)} = {{{counts}}}")
    lines += ["", "[configuration]"]
    lines += [f"{quoted(key)} = {quoted(digest)}" for key, digest in sorted(figures.configuration.items())]
    return "\n".join(lines) + "\n"
