"""README and docs stay true: their tour is taken, and every command in them exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tooling.project import ROOT
from tooling.service import running

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
VARIES = {
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z": "TIME",
    r"[0-9a-f]{32}": "ID",
    r"cursor=[\w-]+": "cursor=CURSOR",
}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def steady(text: str) -> str:
    for pattern, name in VARIES.items():
        text = re.sub(pattern, name, text)
    return text.strip()


def test_the_tour_of_the_readme_prints_what_the_readme_shows() -> None:
    (tour,) = blocks(ROOT / "README.md", "console")
    steps = re.findall(r"^\$ (.*?(?<!\\))\n(.*?)(?=^\$ |\Z)", tour, re.MULTILINE | re.DOTALL)
    assert len(steps) >= 8
    with running({}, workers=2) as url:
        for command, expected in steps:
            local = command.replace("http://127.0.0.1:5000", url)
            ran = subprocess.run(["bash", "-c", local], capture_output=True, text=True, timeout=30, check=True)
            assert steady(ran.stdout.replace("\r", "").replace(url, "http://127.0.0.1:5000")) == steady(expected), (
                command
            )


def sessions() -> set[str]:
    return set(re.findall(r"^def (\w+)\(session: nox\.Session\)", (ROOT / "noxfile.py").read_text(), re.MULTILINE))


def known() -> set[str]:
    tasks = re.findall(r"^@task.*?^def (\w+)\(", (ROOT / "tasks.py").read_text(), re.MULTILINE | re.DOTALL)
    return sessions() | {name.replace("_", "-") for name in [*tasks, *sessions()]}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    named = re.findall(r"\./dev ([a-z][\w-]*)", text) + re.findall(r"\binvoke ([a-z][\w-]*)", text)
    for listed in re.findall(r"nox -s ((?:[a-z]\w* ?)+)", text):
        named += listed.split()
    assert set(named) <= known()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_links_to_exists(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_dev_alone_lists_every_session_and_task() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "nox", "--list-sessions"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for session in sessions():
        assert re.search(rf"^[*-] {session}\b", listed.stdout, re.MULTILINE), session
