"""What a lock must hold."""

from pathlib import Path

import pytest

from tooling import locks
from tooling.project import shared_by

HASH = f"--hash=sha256:{'0' * 64}"


@pytest.mark.parametrize(
    "entry",
    [
        f"flask==3.1.3 {HASH}",
        f"flask[async]==3.1.3 {HASH} {HASH}",
        f"tzdata==2026.6 ; sys_platform == 'win32' {HASH}",
        f"grafana-foundation-sdk==1769699379!11.6.0 {HASH}",
    ],
)
def test_a_version_with_hashes_is_pinned(entry: str) -> None:
    assert locks.pinned(entry)


@pytest.mark.parametrize(
    "entry",
    [
        "flask==3.1.3",
        f"flask>=3 {HASH}",
        f"flask==3.* {HASH}",
        f"flask==3.1.3,>3 {HASH}",
        f"flask {HASH}",
        f"flask==3.1.3 {HASH[:-1]}",
        "flask==3.1.3 --hash=md5:0123",
        f"flask @ https://example.com/flask.whl {HASH}",
        f"-e ./flask {HASH}",
        "--find-links wheels",
        "-r other.txt",
    ],
)
def test_anything_else_is_not(entry: str) -> None:
    assert locks.pinned(entry) is None


def test_the_lines_of_an_entry_are_joined_and_comments_left_out() -> None:
    text = (
        "# by uv\na==1 \\\n    --hash=sha256:00\n    # via b\nb==2 \\\n    --hash=sha256:11 \\\n    --hash=sha256:22\n"
    )
    assert list(locks.entries(text)) == [
        (2, "a==1 --hash=sha256:00"),
        (5, "b==2 --hash=sha256:11 --hash=sha256:22"),
    ]


def test_a_lock_has_what_the_shared_packages_in_it_need_and_of_no_other(tmp_path: Path) -> None:
    def project(folder: str, name: str, *needs: str) -> None:
        (tmp_path / folder).mkdir(parents=True)
        text = f'[project]\nname = "{name}"\ndependencies = {list(needs)}\n'
        (tmp_path / folder / "pyproject.toml").write_text(text)

    (tmp_path / "pyproject.toml").write_text('[dependency-groups]\nload = ["load-kit"]\n')
    project("packages/kit", "kit", "base-kit")
    project("packages/base_kit", "base-kit", "flask")
    project("packages/load_kit", "load-kit", "locust")
    project("services/a", "a", "kit")
    (tmp_path / "requirements").mkdir()
    for lock in ("requirements/load.txt", "services/a/requirements.txt"):
        (tmp_path / lock).write_text("")
    findings = locks.scan(tmp_path, []).findings
    assert [(one.path, one.subject) for one in findings] == [
        ("requirements/load.txt", "locust"),
        ("services/a/requirements.txt", "flask"),
    ]
    shared = shared_by(tmp_path / "services" / "a", tmp_path)
    assert [one.name for one in shared] == ["base_kit", "kit"]
