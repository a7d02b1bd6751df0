"""The record of each service, and that nothing in the tools names one."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tooling.project import ROOT, Service, UnknownServiceError, service, services


def planted(root: Path, name: str, *record: str) -> Path:
    folder = root / "services" / name.replace("-", "_")
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text("\n".join([f'[project]\nname = "{name}"\n[tool.service]', *record]))
    return folder


def test_every_folder_of_services_is_a_service_with_its_files() -> None:
    assert {one.folder for one in services()} == {path.parent for path in ROOT.glob("services/*/pyproject.toml")}
    for one in services():
        for place in (one.dockerfile, one.lock, one.tests, one.folder / "src" / one.package, one.manifests / "base"):
            assert place.exists(), place
        if not one.default:  # that one's are the folders monitoring and loadtests, and the compose.yaml of the root
            for name in ("monitoring/rules.yml", "load/objectives.yaml", "compose.yaml"):
                assert (one.folder / name).exists(), one.folder / name
        assert one.folder.name == one.package


def test_exactly_one_service_is_the_default() -> None:
    assert [one.default for one in services()].count(True) == 1
    assert service() == services()[0]
    assert service(services()[0].package) == service(services()[0].name) == service()


def test_each_service_has_ports_of_its_own() -> None:
    for field in ("port", "node_port", "name"):
        values = [getattr(one, field) for one in services()]
        assert len(set(values)) == len(values)


def test_a_record_is_read_from_pyproject_toml(tmp_path: Path) -> None:
    folder = planted(tmp_path, "clock", "port = 5001", 'openapi = ""')
    planted(tmp_path, "two-words", "default = true", 'manifests = "k8s"')
    first, second = services(tmp_path)
    assert (first.name, first.package, first.manifests) == ("two-words", "two_words", tmp_path / "k8s")
    assert (second.folder, second.port, second.openapi, second.accounts) == (folder, 5001, "", False)
    assert second.manifests == folder / "k8s"
    assert service("clock", tmp_path) == second


@pytest.mark.parametrize("record", ["colour = 1", 'port = "5000"', "accounts = 1", 'name = "other"'])
def test_a_mistake_in_a_record_is_an_error_that_names_the_file_and_the_field(tmp_path: Path, record: str) -> None:
    folder = planted(tmp_path, "clock", record)
    with pytest.raises(UnknownServiceError, match=f"{folder}/pyproject.toml: .* {record.partition(' ')[0]} "):
        services(tmp_path)


def test_an_unknown_service_is_an_error_that_lists_the_known_ones(tmp_path: Path) -> None:
    planted(tmp_path, "clock")
    with pytest.raises(UnknownServiceError, match="no service nobody: the services are clock"):
        service("nobody", tmp_path)
    with pytest.raises(UnknownServiceError, match="no service by default"):
        service("", tmp_path)


def test_the_project_module_needs_only_the_standard_library(tmp_path: Path) -> None:
    code = f"import sys; sys.path[:0] = [{str(ROOT)!r}]; from tooling.project import services; print(len(services()))"
    system = Path("/usr/bin/python3")
    python = str(system) if system.exists() else "python3"
    done = subprocess.run([python, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(services())


def reference(service: Service) -> str:
    """Return the pattern of a service's name: of a single word, which is one of English too, only as a folder's."""
    if "-" not in service.name:
        return rf"services[./]{service.name}\b"
    return f"{service.name}|{service.package}|{service.name.replace('-', '')}"


def test_no_tool_and_no_session_names_a_service() -> None:
    files = [*(file for file in (ROOT / "tooling").rglob("*") if file.suffix in {".py", ".html", ".toml"})]
    files += [ROOT / name for name in ("noxfile.py", "tasks.py", "dev")]
    names = re.compile("|".join(map(reference, services())), re.IGNORECASE)
    named = [file for file in files if "tests" not in file.parts and names.search(file.read_text())]
    assert not named, "a tool works over tooling.project.services()"


def test_the_load_tests_image_needs_no_more_than_its_dockerfile_copies(tmp_path: Path) -> None:
    for name in ("tooling", "loadtests", "packages/locust_verdict/src/locust_verdict"):
        shutil.copytree(ROOT / name, tmp_path / Path(name).name, ignore=shutil.ignore_patterns("tests", "__pycache__"))
    code = "import loadtests.locustfile, loadtests.options, loadtests.run, loadtests.hpa.command"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
