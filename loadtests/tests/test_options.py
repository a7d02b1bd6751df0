"""The command line of the load tests refuses what cannot run, before anything is started."""

import socket

import pytest

from loadtests import options
from locust_verdict.objectives import load_objectives


@pytest.mark.parametrize(
    "host", ["127.0.0.1:5000", "localhost:5000", "ftp://localhost", "http://", "http://a:x", "//a"]
)
def test_a_host_is_a_base_url(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        options.parse(["--headless", f"--host={host}"])
    assert ended.value.code == 2
    assert f"{host!r} is not a base URL such as http://127.0.0.1:5000" in capsys.readouterr().err


def test_a_base_url_may_end_with_a_slash() -> None:
    parsed, _ = options.parse(["--headless", "--host=https://tasks.example:8443/api/"])
    assert parsed.host == "https://tasks.example:8443/api"


def test_a_port_that_is_taken_is_refused_with_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SystemExit) as ended:
            options.parse(["--browser", f"--web-port={port}"])
    assert ended.value.code == 2
    assert f"port {port} of 127.0.0.1 is taken: choose another one by --web-port" in capsys.readouterr().err
    assert options.parse(["--browser", f"--web-port={port}"])[0].web_port == port


def test_the_shipped_objectives_can_be_read() -> None:
    assert load_objectives(options.OBJECTIVES).endpoints["GET /tasks"].server_p95_ms == 5
