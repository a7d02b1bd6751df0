"""What `./dev new-service` writes, and which names it refuses."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tooling import github, new_service, project
from tooling.new_service import BadNameError, check_name, ports
from tooling.project import ROOT, Service
from tooling.tools import require

NAMES = ("echo", "zebra-crossing-with-long-name-xx")
"""One that sorts before the shared packages and one after them, which is as long as a name may be."""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with nothing but one service in it."""
    service = tmp_path / "services" / "task_api"
    service.mkdir(parents=True)
    (service / "pyproject.toml").write_text((ROOT / "services" / "task_api" / "pyproject.toml").read_text())
    for folder in ("packages", "tooling"):  # ruff sorts imports by what it finds
        (tmp_path / folder).symlink_to(ROOT / folder)
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "test.txt").write_text("flask==3.1.3 \\\n    --hash=sha256:0\n")
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    monkeypatch.setattr(new_service, "_lock", lambda folder, _root: (folder / "requirements.txt").touch())
    return tmp_path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Echo", "lower-case"),
        ("1st", "lower-case"),
        ("a--b", "lower-case"),
        ("-a", "lower-case"),
        ("a_b", "lower-case"),
        ("../up", "lower-case"),
        ("", "lower-case"),
        ("a" * 33, "at most 32"),
        ("task-api", "there is a service task-api already"),
        ("json", "Python"),
        ("class", "Python"),
        ("tooling", "folder tooling"),
        ("service-kit", "folder service_kit"),
        ("default", "Kubernetes"),
        ("kube-system", "Kubernetes"),
        ("flask", "library"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused_in_one_line_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(BadNameError, match=reason) as raised:
        check_name(name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["echo", "mail-relay", "a1", "b" * 32])
def test_any_other_name_is_accepted(root: Path, name: str) -> None:
    check_name(name, root)


def test_a_bad_name_on_the_command_line_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert new_service.main(["Echo"]) == 2
    assert capsys.readouterr().err.startswith("new-service: 'Echo' cannot be")


def test_the_first_ports_that_no_service_has_are_taken() -> None:
    taken = [
        Service(folder=Path("a"), name="a", port=5000, node_port=30080),
        Service(folder=Path("b"), name="b", port=5002, node_port=30081),
    ]
    assert ports(taken) == (5001, 30082)


@pytest.mark.parametrize("name", NAMES)
def test_a_new_service_is_written_into_its_own_folder_alone_and_has_a_record(root: Path, name: str) -> None:
    before = {path for path in root.rglob("*") if path.is_file()}
    folder = new_service.create(name, root)
    written = {path for path in root.rglob("*") if path.is_file()} - before
    assert written
    assert all(path.is_relative_to(folder) for path in written)
    project.services.cache_clear()
    record = project.service(name, root)
    assert (record.folder, record.port, record.node_port) == (folder, 5001, 30081)
    assert (record.default, record.database, record.migrations, record.accounts) == (False, "", False, False)
    assert github.version() == tomllib.loads((folder / "pyproject.toml").read_text())["project"]["version"]
    assert record.dockerfile.exists()
    assert record.tests.is_dir()


@pytest.mark.parametrize("name", NAMES)
def test_a_new_service_holds_to_the_repositorys_style(root: Path, name: str) -> None:
    new_service.create(name, root)
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [require("ruff"), *command, "services"], cwd=root, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_what_cannot_be_locked_leaves_nothing_behind(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_folder: Path, _root: Path) -> None:
        raise project.ToolingError("uv could not lock it: no network")

    monkeypatch.setattr(new_service, "_lock", fail)
    with pytest.raises(project.ToolingError, match="no network"):
        new_service.create("echo", root)
    assert not (root / "services" / "echo").exists()


def test_a_new_service_excuses_nothing(root: Path) -> None:
    folder = new_service.create("echo", root)
    excused = [path for path in folder.rglob("*.py") if re.search(r"# (noqa|type: ignore)", path.read_text())]
    assert excused == []


def test_no_value_of_the_template_is_left_out(root: Path) -> None:
    folder = new_service.create("echo", root)
    for path in folder.rglob("*"):
        assert "{{" not in path.name
        if path.is_file():
            assert "{{ name" not in path.read_text()
            assert "{{ package" not in path.read_text()
