import json
from pathlib import Path

import pytest

from monitoring import dashboards

FILES = sorted(dashboards.FOLDER.glob("*.json"))


def test_the_generated_files_are_the_codes_output() -> None:
    assert dashboards.drift() == []


def test_a_changed_a_missing_and_a_left_over_file_are_drift(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboards, "FOLDER", tmp_path)
    assert dashboards.main([]) == 0
    assert dashboards.main(["--check"]) == 0
    (tmp_path / "task-api.json").write_text("{}")
    (tmp_path / "task-api-slo.json").unlink()
    (tmp_path / "old.json").write_text("{}")
    assert dashboards.drift() == ["old.json", "task-api-slo.json", "task-api.json"]
    assert dashboards.main(["--check"]) == 1
    assert dashboards.main([]) == 0
    assert dashboards.drift() == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_panel_says_what_it_shows_and_in_which_unit(path: Path) -> None:
    board = json.loads(path.read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert panels
    for panel in panels:
        assert panel["title"], panel
        assert panel["description"].endswith("."), panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
        names = [target["refId"] for target in panel["targets"]]
        assert names == list("ABCDEFG"[: len(names)]), panel["title"]
        assert panel["type"] in {"table", "heatmap"} or panel["fieldConfig"]["defaults"]["unit"], panel["title"]


def test_each_dashboard_has_an_address_of_its_own_and_cannot_be_edited_by_hand() -> None:
    boards = [json.loads(path.read_text()) for path in FILES]
    assert len({board["uid"] for board in boards}) == len(boards) == 4
    assert not any(board["editable"] for board in boards)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_panel_lies_on_another(path: Path) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(path.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
