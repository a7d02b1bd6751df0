"""What needs no engine: how the image's files are counted, and the message where it cannot be built."""

from pathlib import Path, PurePosixPath

import pytest

from tooling import tools
from tooling.images import build, scan
from tooling.images.build import Part, measure


def test_every_file_counts_for_what_it_belongs_to() -> None:
    files = {
        "usr/bin/python3.13": 1000,
        "etc/passwd": 1,
        "app/lib/flask/app.py": 300,
        "app/lib/flask/json/tag.py": 30,
        "app/lib/_cffi_backend.cpython-313-x86_64-linux-gnu.so": 200,
        "app/lib/typing_extensions.py": 90,
        "app/lib/flask-3.1.dist-info/METADATA": 80,
        "app/lib/jinja2-3.1.dist-info/METADATA": 5,
        "app/task_api/cli.py": 70,
        "app/bytecode/app/lib/flask/app.cpython-313.pyc": 60,
        "app/bytecode/usr/lib/python3.13/os.cpython-313.pyc": 50,
    }
    assert measure((PurePosixPath(name), size) for name, size in files.items()) == [
        Part("Python and the system", "base image", 1001),
        Part("flask", "library", 330),
        Part("_cffi_backend", "library", 200),
        Part("typing_extensions", "library", 90),
        Part("each distribution's metadata", "library", 85),
        Part("task_api", "service", 70),
        Part("bytecode of the service and its libraries", "bytecode", 60),
        Part("bytecode of the standard library", "bytecode", 50),
    ]


def test_the_date_in_the_image_is_the_commits() -> None:
    assert build.Source("v1", "abc", 1_700_000_000).created == "2023-11-14T22:13:20Z"


def test_outside_a_checkout_it_reports_that_and_exits_with_2(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert build.main([]) == 2
    message = capsys.readouterr().err
    assert "not a git repository" in message
    assert "clone the repository" in message


def test_without_docker_it_reports_how_to_get_it_and_exits_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        tools.Tool, "path", lambda tool: None if tool.name == "docker" else Path("/usr/bin") / tool.name
    )
    monkeypatch.setattr(build.Source, "of_checkout", lambda: build.Source("v1", "abc", 1_700_000_000))
    assert build.main([]) == 2
    assert "docker is missing: install Docker" in capsys.readouterr().err


@pytest.mark.parametrize(("unpacked", "findings"), [(90_000_000, 0), (110_000_000, 1)])
def test_the_size_gate_measures_unpacked_files_whatever_the_engine_reports(
    monkeypatch: pytest.MonkeyPatch, unpacked: int, findings: int
) -> None:
    reported = {"Id": "sha256:0", "Size": 200_000_000 - unpacked}  # the containerd store counts other things
    monkeypatch.setattr(build, "inspect", lambda _image: reported)
    monkeypatch.setattr(build, "parts", lambda _image: [Part("all", "base image", unpacked)])
    monkeypatch.setattr(scan, "identity", lambda _image: reported["Id"])
    monkeypatch.setattr(tools, "version", lambda _name: "29")
    assert len(scan.size("task-api:1").findings) == findings
