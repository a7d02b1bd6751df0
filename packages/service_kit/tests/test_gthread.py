"""The worker on the wire: everything is sent and read by plain sockets, as no client library would."""

import http.client
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from service_kit.gthread import DISCARDED_BYTES, HEAD_BYTES
from tooling.service import free_port, listening

MUCH = 8_000_000
"""The length of the answer at /much."""

SERVICE = Path(__file__).with_name("small_service.py")
LIMIT = 20_000
SECRET = "s3cr3t-of-the-client"
HOST = b"Host: localhost\r\n"
LIVEZ = b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n"
ECHO = b"POST /echo HTTP/1.1\r\n" + HOST
CHUNKED = ECHO + b"Transfer-Encoding: chunked\r\n\r\n"


class Running:
    """A running service, and requests to it over plain sockets."""

    def __init__(self, port: int, log: Path, pid: int) -> None:
        self.port = port
        self.log = log
        self.pid = pid

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def send(self, data: bytes) -> bytes:
        """Send, end the sending side, and return all that is answered."""
        with self.connect() as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            return read_all(client)


def read_all(client: socket.socket) -> bytes:
    """Read until the service closes, in whichever way."""
    received = b""
    with suppress(ConnectionResetError):
        while data := client.recv(65536):
            received += data
    return received


def read_until(client: socket.socket, end: bytes) -> bytes:
    """Read until what has come ends so."""
    received = bytearray()
    while not received.endswith(end):
        data = client.recv(1 << 20)
        assert data, f"closed after {received!r}"
        received += data
    return bytes(received)


def read_bytes(client: socket.socket, number: int) -> bytes:
    """Read so many bytes."""
    received = bytearray()
    while len(received) < number:
        data = client.recv(1 << 20)
        assert data, f"closed after {len(received)} bytes"
        received += data
    return bytes(received)


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@contextmanager
def serving(
    folder: Path,
    *,
    silence: float = 10,
    places: int = 100,
    held: int = 1 << 20,
    threads: int = 2,
    drain: float = 0,
    heartbeat: float = 60,
    age: float = 60,
) -> Iterator[Running]:
    port, log = free_port(), folder / "log"
    settings = {
        "PORT": str(port),
        "WORKERS": "1",
        "THREADS": str(threads),
        "MAX_BODY_BYTES": str(LIMIT),
        "LOG_LEVEL": "debug",
        "DRAIN_SECONDS": str(drain),
    }
    command = [sys.executable, str(SERVICE), *map(str, (silence, places, held, heartbeat, age))]
    with listening(command, settings, ready=f"http://127.0.0.1:{port}/livez", log=log) as process:
        yield Running(port, log, process.pid)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("served")) as running:
        yield running
        running.send(LIVEZ)
    assert "Traceback" not in running.log.read_text().replace("X-Bad", "")


def test_metrics_begin_with_the_services_package_and_have_no_others(service: Running) -> None:
    metrics = service.send(b"GET /metrics HTTP/1.1\r\n" + HOST + b"\r\n").decode()
    names = set(re.findall(r"^# TYPE (\w+)", metrics, re.MULTILINE))
    assert {"api_requests_total", "small_draining"} <= names
    assert all(name.startswith(("api_", "small_")) for name in names)


def test_requests_that_follow_one_another_at_once_are_answered_in_order(service: Running) -> None:
    answers = service.send(b"".join(ECHO + b"Content-Length: 1\r\n\r\n%d" % number for number in range(5)))
    assert [part[-1:] for part in answers.split(b"HTTP/1.1 200 OK")[1:]] == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("size", [1, 3, 40])
def test_a_request_may_come_in_pieces_of_any_size(service: Running, size: int) -> None:
    request = CHUNKED + b"5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nX-Trailer: y\r\n\r\n"
    with service.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(request), size):
            client.sendall(request[start : start + size])
        assert read_until(client, b"hello world").startswith(b"HTTP/1.1 200 OK")
        client.sendall(LIVEZ)
        assert status(client.recv(65536)) == 200


def test_a_response_has_the_time_at_which_it_was_made(service: Running) -> None:
    def date() -> float:
        (line,) = (line for line in service.send(LIVEZ).split(b"\r\n") if line.startswith(b"Date: "))
        return parsedate_to_datetime(line[6:].decode()).timestamp()

    before, first = int(time.time()), date()
    time.sleep(1)  # the text is made once a second
    second, after = date(), time.time()
    assert before <= first < second <= after


def test_a_client_of_a_later_minor_version_is_answered_in_ours(service: Running) -> None:
    assert service.send(LIVEZ.replace(b"HTTP/1.1", b"HTTP/1.7")).startswith(b"HTTP/1.1 200 OK")


def test_head_has_no_body_and_an_answer_in_pieces_is_chunked(service: Running) -> None:
    assert service.send(LIVEZ.replace(b"GET", b"HEAD")).endswith(b"\r\n\r\n")
    assert service.send(LIVEZ.replace(b"livez", b"pieces")).endswith(b"1\r\n0\r\n1\r\n1\r\n1\r\n2\r\n0\r\n\r\n")


def test_a_client_that_expects_100_continue_receives_it(service: Running) -> None:
    with service.connect() as client:
        client.sendall(ECHO + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert read_until(client, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"ok")
        assert read_until(client, b"ok").startswith(b"HTTP/1.1 200 OK")


def test_a_client_that_expects_100_continue_for_too_much_is_refused(service: Running) -> None:
    with service.connect() as client:
        client.sendall(ECHO + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % (LIMIT + 1))
        client.shutdown(socket.SHUT_WR)
        assert status(read_all(client)) == 413


BROKEN = {
    "chunk size 0x10": (400, CHUNKED + b"0x10\r\n" + bytes(16) + b"\r\n0\r\n\r\n"),
    "chunk size +10": (400, CHUNKED + b"+10\r\n" + bytes(16) + b"\r\n0\r\n\r\n"),
    "chunk size -1": (400, CHUNKED + b"-1\r\n\r\n0\r\n\r\n"),
    "chunk size 1_0": (400, CHUNKED + b"1_0\r\n" + bytes(16) + b"\r\n0\r\n\r\n"),
    "no chunk size": (400, CHUNKED + b"\r\n0\r\n\r\n"),
    "chunk size of many digits": (400, CHUNKED + b"F" * 20 + b"\r\n"),
    "no chunk but a password": (400, CHUNKED + f'{{"password":"{SECRET}"}}\r\n\r\n'.encode()),
    "bare LF in an extension": (400, CHUNKED + b"1;a\nb\r\nx\r\n0\r\n\r\n"),
    "bare LF after a chunk": (400, CHUNKED + b"1\nx\n0\n\n"),
    "chunk longer than its size": (400, CHUNKED + b"1\r\nxyz\r\n0\r\n\r\n"),
    "trailer without a colon": (400, CHUNKED + f"0\r\nAuthorization {SECRET}\r\n\r\n".encode()),
    "trailer that frames": (400, CHUNKED + b"0\r\nContent-Length: 5\r\n\r\n"),
    "bare LF in a trailer": (400, CHUNKED + b"0\r\nX: y\nZ: a\r\n\r\n"),
    "header without a colon": (400, f"GET /livez HTTP/1.1\r\nAuthorization Bearer {SECRET}\r\n\r\n".encode()),
    "header name with a space": (400, f"GET /livez HTTP/1.1\r\nAuthorization : {SECRET}\r\n\r\n".encode()),
    "control character in a header": (400, f"GET /livez HTTP/1.1\r\nAuthorization: {SECRET}\0\r\n\r\n".encode()),
    "bare LF": (400, b"GET /livez HTTP/1.1\nHost: localhost\n\n"),
    "no request": (400, SECRET.encode() + b"\r\n\r\n"),
    "what a body left behind": (400, ECHO + f"Content-Length: 3\r\n\r\n123{SECRET}\r\n\r\n".encode()),
    "two lengths": (400, ECHO + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx"),
    "length and chunks": (400, ECHO + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nx"),
    "length -1": (400, ECHO + b"Content-Length: -1\r\n\r\n"),
    "length of many digits": (400, ECHO + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n"),
    "two hosts": (400, b"GET /livez HTTP/1.1\r\n" + HOST + HOST + b"\r\n"),
    "transfer coding that is unknown": (501, ECHO + f"Transfer-Encoding: {SECRET}\r\n\r\n".encode()),
    "expectation that is unknown": (417, ECHO + f"Expect: {SECRET}\r\nContent-Length: 0\r\n\r\n".encode()),
    "request line too long": (414, b"GET /" + b"x" * 2 * HEAD_BYTES + b" HTTP/1.1\r\n\r\n"),
    "header too long": (431, b"GET / HTTP/1.1\r\nX: " + b"x" * 2 * HEAD_BYTES + b"\r\n\r\n"),
    "too many headers": (431, b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * 200 + b"\r\n"),
    "version 2": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_http_request_is_refused_and_nowhere_repeated(service: Running, name: str) -> None:
    expected, data = BROKEN[name]
    answers = service.send(data)
    head, _, body = answers[answers.rindex(b"HTTP/1.1 ") :].partition(b"\r\n\r\n")
    assert status(head) == expected
    assert b"Connection: close" in head
    assert b"Content-Type: application/problem+json" in head
    assert json.loads(body)["status"] == expected
    assert SECRET.encode() not in answers
    assert SECRET not in service.log.read_text()


def test_a_response_that_cannot_be_sent_is_the_services_fault(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        assert status(service.send(LIVEZ.replace(b"livez", b"unreadable"))) == 500


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_refused_and_its_client_gets_to_read_that(service: Running, chunked: bool) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    piece = bytes(1_000_000)
    headers = {} if chunked else {"Content-Length": str(20 * len(piece))}
    connection.request("POST", "/echo", (piece for _ in range(20)), headers, encode_chunked=chunked)
    response = connection.getresponse()
    assert response.status == 413
    assert response.getheader("Connection") == "close"
    assert json.loads(response.read())["detail"] == f"a request's body has at most {LIMIT} bytes"


def test_chunks_that_are_hardly_more_than_their_framing_are_too_large_too(service: Running) -> None:
    assert status(service.send(CHUNKED + b"1\r\nx\r\n" * LIMIT * 2)) == 413


def test_a_body_without_an_end_is_not_read_for_ever(service: Running) -> None:
    with service.connect() as client:
        client.sendall(ECHO + b"Content-Length: %d\r\n\r\n" % 10**12)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            client.sendall(bytes(2 * DISCARDED_BYTES))


SLOW: dict[str, Callable[[Running], bytes]] = {
    "idle": lambda _: b"",
    "in the head": lambda _: b"GET /livez HTTP/1.1\r\n",
    "in the body": lambda _: ECHO + b"Content-Length: 9\r\n\r\n1",
    "in a chunk": lambda _: CHUNKED + b"9\r\n1",
    "not reading": lambda _: LIVEZ.replace(b"livez", b"much"),
}


def test_clients_that_are_slow_in_any_way_hold_no_thread(tmp_path: Path) -> None:
    with serving(tmp_path, held=1 << 30) as service, ExitStack() as stack:
        for data in SLOW.values():
            for _ in range(10):
                client = stack.enter_context(service.connect())
                client.sendall(data(service))
        for _ in range(3):
            assert service.send(ECHO + b"Content-Length: 2\r\n\r\nok").endswith(b"ok")


def test_a_request_that_stops_is_answered_408_and_a_client_that_takes_nothing_is_closed(tmp_path: Path) -> None:
    with serving(tmp_path, silence=0.2, held=1 << 30) as service, ExitStack() as stack:
        clients = {name: stack.enter_context(service.connect()) for name in SLOW}
        for name, client in clients.items():
            client.sendall(SLOW[name](service))
        for name in ("in the head", "in the body", "in a chunk"):
            assert status(read_all(clients[name])) == 408
        time.sleep(2)
        assert len(read_all(clients["not reading"])) < MUCH
        clients["idle"].sendall(LIVEZ)  # is open still
        assert status(clients["idle"].recv(65536)) == 200


def test_where_places_run_out_idle_connections_are_closed_first(tmp_path: Path) -> None:
    with serving(tmp_path, places=10) as service, ExitStack() as stack:
        begun = stack.enter_context(service.connect())
        begun.sendall(LIVEZ[:5])
        idle = [stack.enter_context(service.connect()) for _ in range(30)]
        assert service.send(LIVEZ).startswith(b"HTTP/1.1 200 OK")
        assert read_all(idle[0]) == b""
        begun.sendall(LIVEZ[5:])
        assert status(begun.recv(65536)) == 200


def test_what_is_held_in_memory_has_a_bound(tmp_path: Path) -> None:
    with serving(tmp_path, held=5 * LIMIT) as service, ExitStack() as stack:
        slow = [stack.enter_context(service.connect()) for _ in range(20)]
        for client in slow:
            client.sendall(ECHO + b"Content-Length: %d\r\n\r\n" % LIMIT + bytes(LIMIT - 1))
        whole = ECHO + b"Content-Length: %d\r\n\r\n" % LIMIT + bytes(LIMIT)
        while status(answer := service.send(whole)) == 503:  # while threads still look at the others' heads
            assert b"Retry-After: " in answer
        assert status(answer) == 200
        assert b"200 OK" not in read_all(slow[0])


def test_liveness_is_answered_while_every_thread_waits(tmp_path: Path) -> None:
    with serving(tmp_path) as service, ExitStack() as stack:
        for _ in range(8):
            client = stack.enter_context(service.connect())
            client.sendall(b"GET /wait?seconds=3 HTTP/1.1\r\n" + HOST + b"\r\n")
        began = time.monotonic()
        assert service.send(LIVEZ).startswith(b"HTTP/1.1 200 OK")
        assert time.monotonic() - began < 2


def test_what_several_responses_send_is_held_in_memory_once(tmp_path: Path) -> None:
    with serving(tmp_path, held=2 * MUCH) as service, ExitStack() as stack:
        clients = [stack.enter_context(service.connect()) for _ in range(5)]
        for client in clients:
            client.sendall(LIVEZ.replace(b"livez", b"much"))
        time.sleep(1)
        assert all(read_until(client, bytes(MUCH)).startswith(b"HTTP/1.1 200 OK") for client in clients)


STREAM = b"GET /stream HTTP/1.1\r\nAccept: text/event-stream\r\n" + HOST + b"\r\n"
FIRST = b"id: 1\ndata: first\n\n"


def post(service: Running, path: str, data: bytes = b"") -> bytes:
    request = f"POST /{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
    with service.connect() as client:
        client.sendall(request.encode() + data)
        return read_all(client).partition(b"\r\n\r\n")[2]


def measured(service: Running, sample: str) -> None:
    """Wait until the metrics have this."""
    while sample.encode() not in service.send(b"GET /metrics HTTP/1.1\r\n" + HOST + b"\r\n"):
        time.sleep(0.05)


def ended(service: Running, reason: str) -> None:
    """Wait until a stream has ended for this reason."""
    measured(service, f'api_streams_ended_total{{reason="{reason}"}} ')


@contextmanager
def streaming(service: Running, request: bytes = STREAM) -> Iterator[socket.socket]:
    with service.connect() as client:
        client.sendall(request)
        yield client


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
def test_a_stream_goes_on_until_it_is_ended(tmp_path: Path, version: bytes) -> None:
    with serving(tmp_path) as service, streaming(service, STREAM.replace(b"HTTP/1.1", version)) as client:
        begin = read_until(client, FIRST)
        assert begin.startswith(b"%s 200 OK\r\n" % version)
        assert b"Connection: close\r\n" in begin
        assert b"Content-Type: text/event-stream" in begin
        assert b"Transfer-Encoding" not in begin
        assert b"Content-Length" not in begin
        assert post(service, "send/2", b"more") == b"1"
        assert read_until(client, b"more") == b"moremore"
        post(service, "end")
        assert read_all(client) == b"the end"
        ended(service, "told")
        measured(service, "api_streams_open 0.0")


def test_head_is_answered_like_the_stream_and_ends(service: Running) -> None:
    answer = service.send(STREAM.replace(b"GET", b"HEAD"))
    assert b"Content-Type: text/event-stream" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_open_streams_hold_no_thread_and_no_more_than_half_of_the_places(tmp_path: Path) -> None:
    with serving(tmp_path, places=40) as service, ExitStack() as stack:
        clients = [stack.enter_context(streaming(service)) for _ in range(20)]
        for client in clients:
            assert read_until(client, FIRST)
        measured(service, "api_streams_open 20.0")
        assert service.send(STREAM).endswith(b"no stream")
        idle = [stack.enter_context(service.connect()) for _ in range(40)]
        assert post(service, "send/1", b"on") == b"20"
        assert [read_until(client, b"on") for client in clients] == [b"on"] * 20
        assert read_all(idle[0]) == b""


def test_a_silent_stream_has_heartbeats_and_ends_with_its_age(tmp_path: Path) -> None:
    with serving(tmp_path, heartbeat=0.01, age=3) as service, streaming(service) as client:
        read_until(client, FIRST)
        assert set(read_all(client).split(b"\n\n")) == {b":", b""}
        ended(service, "age")


@pytest.mark.parametrize("gone", ["client", "slow"])
def test_a_stream_whose_client_has_gone_or_takes_nothing_is_dropped(tmp_path: Path, gone: str) -> None:
    with serving(tmp_path, silence=0.2, held=1 << 30) as service, streaming(service) as client:
        read_until(client, FIRST)
        if gone == "client":
            client.close()
        else:
            post(service, f"send/{MUCH}", b"x")
        ended(service, gone)
        assert post(service, "send/1", b"x") == b"0"


def test_a_client_is_sent_no_more_before_it_has_taken_what_there_is(tmp_path: Path) -> None:
    with serving(tmp_path, held=1 << 30) as service, streaming(service) as client:
        read_until(client, FIRST)
        post(service, f"send/{MUCH}", b"x")
        post(service, "send/1", b"y")
        received = read_all(client)
        assert len(received) < MUCH
        assert b"y" not in received
        ended(service, "slow")


def test_what_several_streams_are_sent_is_held_in_memory_once(tmp_path: Path) -> None:
    with serving(tmp_path, held=2 * MUCH) as service, ExitStack() as stack:
        clients = [stack.enter_context(streaming(service)) for _ in range(5)]
        for client in clients:
            read_until(client, FIRST)
        post(service, f"send/{MUCH}", b"x")
        assert all(read_bytes(client, MUCH) == b"x" * MUCH for client in clients)


def test_a_stream_that_cannot_begin_is_forgotten(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        assert status(service.send(STREAM.replace(b"/stream", b"/stream?bad"))) == 500
        assert post(service, "send/1", b"x") == b"0"


@pytest.mark.parametrize("drain", [0, 2])
def test_streams_end_at_once_where_the_service_ends_and_other_requests_are_answered(
    tmp_path: Path, drain: float
) -> None:
    with ExitStack() as stack, serving(tmp_path, drain=drain) as service:
        client = stack.enter_context(streaming(service))
        read_until(client, FIRST)
        other = stack.enter_context(service.connect())
        other.sendall(b"GET /wait?seconds=1 HTTP/1.1\r\n" + HOST + b"\r\n")
        time.sleep(0.2)
        os.kill(service.pid, signal.SIGTERM)
        assert read_all(client) == b""
        assert read_until(other, b"waited")


def test_what_the_client_of_a_stream_sends_is_read_by_nobody(service: Running) -> None:
    with streaming(service, STREAM + LIVEZ) as client:
        read_until(client, FIRST)
        client.sendall(LIVEZ * 100)
        post(service, "end")
        assert read_all(client) == b"the end"
    with streaming(service) as client:
        read_until(client, FIRST)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            client.sendall(bytes(2 * DISCARDED_BYTES))


def made(service: Running) -> tuple[int, int]:
    """Return how many parts of the long response are made, and how many such responses have ended."""
    answer = service.send(b"GET /made HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
    parts, ended = answer.rpartition(b"\n")[2].split()
    return int(parts), int(ended)


def settled(service: Running) -> int:
    """Return how many parts are made once no more are made."""
    parts = -1
    while (now := made(service)[0]) != parts:
        parts = now
        time.sleep(0.2)
    return parts


LONG = b"GET /long/1600 HTTP/1.1\r\n" + HOST


def test_a_long_response_is_made_as_its_client_takes_it_and_holds_no_thread(tmp_path: Path) -> None:
    with serving(tmp_path, threads=1) as service, service.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.sendall(LONG + b"\r\n")
        first = client.recv(1000)
        assert first.startswith(b"HTTP/1.1 200")
        begun = settled(service)  # its only thread answers this
        assert begun < 400  # what the system's buffers take, and a little more: not 100 MB
        body = first + read_until(client, b"0\r\n\r\n")
        assert body.count(b"\x00") == 1600 * 65536
        assert made(service)[0] == 1600
        client.sendall(LIVEZ)  # the connection stays open for the next request
        assert client.recv(1000).startswith(b"HTTP/1.1 200")


def test_a_long_response_that_nobody_takes_to_its_end_is_let_go(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        for _ in range(3):
            with service.connect() as client:
                client.sendall(LONG + b"\r\n")
                assert client.recv(1000)
        while made(service)[1] < 3:
            time.sleep(0.1)
        assert made(service)[0] < 1600


def test_a_long_response_that_breaks_off_has_no_end(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        answer = service.send(LONG.replace(b"1600", b"160?breaks") + b"\r\n")
        assert answer.count(b"\x00") == 160 * 65536
        assert not answer.endswith(b"0\r\n\r\n")
        assert made(service) == (160, 1)
    assert "a response broke off" in service.log.read_text()


def test_a_long_response_that_is_taken_slowly_is_whole_although_the_service_ends(tmp_path: Path) -> None:
    with serving(tmp_path) as service, service.connect() as client:
        client.sendall(LONG + b"\r\n")
        first = client.recv(1000)
        os.kill(service.pid, signal.SIGTERM)
        time.sleep(1)
        body = first + read_until(client, b"0\r\n\r\n")
        assert body.count(b"\x00") == 1600 * 65536
