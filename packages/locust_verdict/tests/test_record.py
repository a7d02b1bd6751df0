"""The flight record: nothing is lost, and what is no record is refused."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locust_verdict.record import BadRecordError, Cluster, Durations, Event, Pod, Recorder, Requests, Run, Sample, read

TEXT = st.text(max_size=50)
TIMES = st.floats(0, 2e9)
ENTRIES = st.one_of(
    st.builds(Run, TIMES, TEXT, st.dictionaries(TEXT, st.integers() | TEXT)),
    st.builds(Event, TIMES, TEXT, TEXT, st.dictionaries(TEXT, TEXT)),
    st.builds(Sample, TIMES, TEXT, st.floats(allow_nan=False, allow_infinity=False), TEXT, TEXT),
    st.builds(Requests, TIMES, TEXT, st.integers(0, 100), TEXT, TEXT),
    st.builds(Durations, TIMES, TEXT, st.dictionaries(TEXT, st.integers(0, 10**9))),
    st.builds(Cluster, TIMES, st.integers(0, 100), st.lists(st.builds(Pod, TEXT, TEXT, st.booleans())), st.just({})),
)


@given(st.lists(ENTRIES, max_size=20))
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, entries: list[Event]) -> None:
    path = tmp_path_factory.mktemp("record") / "record.jsonl"
    with Recorder(path) as recorder:
        for entry in entries:
            recorder.write(entry)
    assert list(read(path)) == entries


def test_a_killed_program_loses_nothing_that_it_wrote(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    program = (
        "import os, signal, sys; from pathlib import Path; from locust_verdict.record import Recorder\n"
        "recorder = Recorder(Path(sys.argv[1]))\n"
        "for number in range(500): recorder.sample('pods', number, at=number)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert [entry.value for entry in read(path) if isinstance(entry, Sample)] == list(range(500))


def test_several_writers_do_not_tear_each_others_lines(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"

    def write(name: str) -> None:
        with Recorder(path) as recorder:
            for number in range(200):
                recorder.sample("x" * 500, number, subject=name)

    threads = [threading.Thread(target=write, args=(str(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(read(path))) == 800


def test_a_last_line_cut_short_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    with Recorder(path) as recorder:
        recorder.event("deploy", "v2", at=1)
    with path.open("ab") as file:
        file.write(b'{"type":"event","at":2,"ki')
    assert [entry.at for entry in read(path)] == [1]


@pytest.mark.parametrize(
    "line", ["{}", "no JSON", '{"type":"party","at":1}', '{"type":"event","at":"noon"}', '"\\ud800"']
)
def test_another_bad_line_is_named_by_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "record.jsonl"
    path.write_text(f'{{"type":"event","at":1,"kind":"a","text":"b"}}\n{line}\n')
    with pytest.raises(BadRecordError, match=r"record\.jsonl:2: not an entry of a flight record"):
        list(read(path))
