"""What services may not call, by the rules that `./dev lint` reads from pyproject.toml."""

import subprocess
from pathlib import Path

import pytest

from tooling.project import ROOT
from tooling.tools import require


def banned(line: str, path: str) -> bool:
    """Return whether ruff reports a banned function in a module of this one line."""
    options = ["--select=TID251", "--quiet", f"--stdin-filename={ROOT / path}", "-"]
    command: list[str | Path] = [require("ruff"), "check", *options]
    done = subprocess.run(command, cwd=ROOT, input=line, text=True, capture_output=True, check=False)
    assert done.returncode == ("TID251" in done.stdout), done.stderr
    return "TID251" in done.stdout


@pytest.mark.parametrize(
    "line",
    [
        "import random; token = random.choices('abc', k=40)",
        "from random import getrandbits; token = getrandbits(256)",
        "import ssl; context.verify_mode = ssl.CERT_NONE",
        "from http.client import HTTPSConnection; HTTPSConnection(host).request('GET', '/')",
        "import urllib.request; urllib.request.urlopen(url)",
        "import socket; socket.create_connection((host, 443))",
        "from flask import render_template_string",
        "from flask import send_file; send_file(folder / name)",
    ],
)
def test_what_is_unsafe_with_a_strangers_input_is_banned_in_services_and_packages(line: str) -> None:
    assert banned(line, "services/task_api/src/task_api/planted.py")
    assert banned(line, "packages/task_core/src/task_core/planted.py")
    assert not banned(line, "tooling/planted.py")


def test_jitter_is_not_banned() -> None:
    assert not banned("import random; wait = random.uniform(0.5, 1.5)", "services/task_api/src/task_api/planted.py")
