import itertools
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.client import HTTPException
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from service_kit import outbound, signatures
from service_kit.outbound import Limits, Refused, Sender

PUBLIC = "93.184.215.14"
SCHEME, PORT, USER, FRAGMENT = "scheme has to be https", "port has to be", "user or a password", "fragment"
HOST, FORM, TEXT, INSIDE = "host has to be a name", "usual form", "printable ASCII", "not an address of the public"
ZONE = "zone id|usual form|expected a URL"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://hooks.example.org/", SCHEME),
        ("file:///etc/passwd", SCHEME),
        ("gopher://hooks.example.org/", SCHEME),
        ("//hooks.example.org/", SCHEME),
        ("https://user:password@hooks.example.org/", USER),
        ("https://@hooks.example.org/", USER),
        ("https://hooks.example.org@10.0.0.1/", USER),
        ("https://hooks.example.org/#there", FRAGMENT),
        ("https://hooks.example.org\\@10.0.0.1/", TEXT),
        ("https://hooks.example.org/a b", TEXT),
        ("https://hooks.example.org/\r\nHost: other", TEXT),
        ("https://\uff11\uff12\uff17.0.0.1/", TEXT),
        ("https://hooks.example.org/" + "a" * 2000, TEXT),
        ("https://hooks.example.org:22/", PORT),
        ("https://hooks.example.org:0/", PORT),
        ("https://hooks.example.org:80/", PORT),
        ("https://hooks.example.org:99999/", "expected a URL"),
        ("https:///path", HOST),
        ("https://%6cocalhost/", HOST),
        ("https://%31%32%37.0.0.1/", FORM),
        ("https://hooks..example.org/", HOST),
        ("https://2130706433/", FORM),
        ("https://0x7f000001/", FORM),
        ("https://0x7f.1/", FORM),
        ("https://0177.0.0.1/", FORM),
        ("https://127.1/", FORM),
        ("https://127.0.0.0x1/", FORM),
        ("https://[fe80::1%25eth0]/", ZONE),
        ("https://[2606:2800:21f::1%25lo]/", ZONE),
        ("https://127.0.0.1/", INSIDE),
        ("https://0.0.0.0/", INSIDE),
        ("https://10.0.0.1/", INSIDE),
        ("https://172.16.0.1/", INSIDE),
        ("https://192.168.0.1/", INSIDE),
        ("https://100.64.0.1/", INSIDE),
        ("https://100.100.100.200/", INSIDE),
        ("https://169.254.169.254/latest/meta-data/", INSIDE),
        ("https://168.63.129.16/", INSIDE),
        ("https://192.0.0.192/", INSIDE),
        ("https://192.88.99.1/", INSIDE),
        ("https://192.0.2.1/", INSIDE),
        ("https://198.18.0.1/", INSIDE),
        ("https://224.0.0.1/", INSIDE),
        ("https://239.1.2.3/", INSIDE),
        ("https://240.0.0.1/", INSIDE),
        ("https://255.255.255.255/", INSIDE),
        ("https://[::1]/", INSIDE),
        ("https://[::]/", INSIDE),
        ("https://[fe80::1]/", INSIDE),
        ("https://[fec0::1]/", INSIDE),
        ("https://[fc00::1]/", INSIDE),
        ("https://[fd00:ec2::254]/", INSIDE),
        ("https://[ff02::1]/", INSIDE),
        ("https://[ff0e::1]/", INSIDE),
        ("https://[::ffff:127.0.0.1]/", INSIDE),
        ("https://[::ffff:a9fe:a9fe]/", INSIDE),
        ("https://[::127.0.0.1]/", INSIDE),
        ("https://[64:ff9b::7f00:1]/", INSIDE),
        ("https://[64:ff9b:1::1]/", INSIDE),
        ("https://[2002:7f00:1::]/", INSIDE),
        ("https://[2001:0:7f00:1::]/", INSIDE),
        ("https://[2001:db8::1]/", INSIDE),
        ("https://[3fff::1]/", INSIDE),
        ("https://[4000::1]/", INSIDE),
    ],
)
def test_a_url_that_leads_where_none_may_is_refused(url: str, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        Sender(resolver=lambda *_: pytest.fail("it was resolved")).post(url, b"", {})


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.org",
        "https://hooks.example.org:8443/tasks?a=b",
        "https://hooks.example.org:1024/",
        "https://hooks.example.org/".ljust(outbound.LONGEST_URL, "a"),
        "https://xn--bcher-kva.example/",
        f"https://{PUBLIC}/",
        "https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/",
    ],
)
def test_a_url_of_the_public_internet_is_accepted(url: str) -> None:
    outbound.parse(url)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "::ffff:10.0.0.1", "fe80::1%2"])
def test_a_name_is_refused_by_each_of_its_addresses(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "create_connection", lambda *_: pytest.fail("it connected"))
    with pytest.raises(Refused):
        Sender(resolver=lambda *_: [PUBLIC, address]).post("https://hooks.example.org/", b"", {})


def test_a_name_is_resolved_to_its_addresses_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in (PUBLIC, "1.1.1.1", PUBLIC)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: entries)
    assert outbound.resolve("hooks.example.org", 443) == [PUBLIC, "1.1.1.1"]


def test_the_second_address_is_tried_where_the_first_does_not_connect_and_no_third(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = []

    def connect(address: tuple[str, int], _timeout: float) -> socket.socket:
        tried.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", connect)
    addresses = [PUBLIC, "1.1.1.1", "8.8.8.8"]
    with pytest.raises(ConnectionRefusedError):
        Sender(resolver=lambda *_: addresses).post("https://hooks.example.org/", b"", {})
    assert tried == addresses[:2]


def nowhere(*_: Any) -> list[str]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.mark.parametrize(
    "resolver", [nowhere, lambda *_: [], lambda *_: ["10.96.0.1"], lambda *_: [PUBLIC, "::1"], lambda *_: ["fe80::1%2"]]
)
def test_the_reason_reveals_no_internal_name(resolver: outbound.Resolver) -> None:
    with pytest.raises(Refused) as refused:
        Sender(resolver=resolver).post("https://postgres.default.svc.cluster.local/", b"", {})
    assert str(refused.value) == outbound.UNREACHABLE


FORBIDDEN = ("10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")
forbidden_ipv4 = st.sampled_from(FORBIDDEN).flatmap(lambda network: st.ip_addresses(network=network))
EMBEDDINGS: dict[str, Callable[[int], int]] = {
    "IPv4-mapped (RFC 4291)": lambda ipv4: int(IPv6Address("::ffff:0:0")) | ipv4,
    "IPv4-compatible (RFC 4291)": lambda ipv4: ipv4,
    "IPv4-translated (RFC 2765)": lambda ipv4: int(IPv6Address("::ffff:0:0:0")) | ipv4,
    "NAT64 (RFC 6052)": lambda ipv4: int(IPv6Address("64:ff9b::")) | ipv4,
    "local NAT64 (RFC 8215)": lambda ipv4: int(IPv6Address("64:ff9b:1::")) | ipv4,
    "6to4 (RFC 3056)": lambda ipv4: int(IPv6Address("2002::")) | ipv4 << 80,
    "Teredo client (RFC 4380)": lambda ipv4: int(IPv6Address("2001::")) | ipv4 ^ 0xFFFFFFFF,
    "Teredo server (RFC 4380)": lambda ipv4: int(IPv6Address("2001::")) | ipv4 << 64,
}


@pytest.mark.parametrize("embed", EMBEDDINGS.values(), ids=EMBEDDINGS)
@given(ipv4=forbidden_ipv4)
def test_an_ipv6_address_that_holds_a_forbidden_ipv4_address_is_refused(
    embed: Callable[[int], int], ipv4: IPv4Address
) -> None:
    address = str(IPv6Address(embed(int(ipv4))))
    with pytest.raises(Refused):
        outbound.parse(f"https://[{address}]/")
    with pytest.raises(Refused, match=outbound.UNREACHABLE):
        Sender(resolver=lambda *_: [address]).post("https://hooks.example.org/", b"", {})


@given(ipv4=st.ip_addresses(v=4))
def test_a_mapped_address_is_judged_as_the_ipv4_address_that_it_is(ipv4: IPv4Address) -> None:
    def refused(address: str) -> bool:
        try:
            outbound.check_address(address)
        except Refused:
            return True
        return False

    assert refused(f"::ffff:{ipv4}") == refused(str(ipv4))


def test_a_name_that_means_another_address_a_moment_later_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([[PUBLIC], ["127.0.0.1"]])
    connected: list[Any] = []

    def connect(address: Any, _timeout: float) -> socket.socket:
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", connect)
    sender = Sender(resolver=lambda *_: next(answers))
    with pytest.raises(ConnectionRefusedError):
        sender.post("https://hooks.example.org/", b"", {})
    assert connected == [(PUBLIC, 443)]
    with pytest.raises(Refused, match=INSIDE):
        sender.post("https://hooks.example.org/", b"", {})


@contextmanager
def server(answer: Callable[[socket.socket], None], context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Accept connections one after the other, each answered by the function; yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def run() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                try:
                    with context.wrap_socket(connection, server_side=True) if context else connection as wrapped:
                        answer(wrapped)
                except OSError:
                    pass  # the client has ended the connection

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def received(connection: socket.socket) -> bytes:
    """Read a request whose body is `body`."""
    request = b""
    while not request.endswith(b"\r\n\r\nbody"):
        request += connection.recv(4096) or pytest.fail("the request ended early")
    return request


def test_the_request_names_the_host_and_nothing_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    requests, names = [], []
    context, trusting = certified("hooks.example.org", tmp_path)
    context.sni_callback = lambda _socket, name, _context: names.append(name)

    def answer(connection: socket.socket) -> None:
        requests.append(received(connection))
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    with server(answer, context) as port:
        sender = Sender(insecure=True, resolver=lambda *_: ["127.0.0.1"], context=trusting)
        assert sender.post(f"https://hooks.example.org:{port}/tasks?a=b", b"body", {"X-A": "b"}) == 204
        with pytest.raises(ssl.SSLCertVerificationError):
            sender.post(f"https://other.example.org:{port}/", b"body", {})
    head, _, body = requests[0].partition(b"\r\n\r\n")
    line, *headers = head.decode().split("\r\n")
    assert (line, body) == ("POST /tasks?a=b HTTP/1.1", b"body")
    assert sorted(headers) == [
        "Accept-Encoding: identity",
        "Connection: close",
        "Content-Length: 4",
        f"Host: hooks.example.org:{port}",
        "X-A: b",
    ]
    assert names == ["hooks.example.org", "other.example.org"]


def certified(name: str, folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a certificate for the name, and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject, now = x509.Name([]), datetime.now(UTC)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=True)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "pem").write_bytes(private + pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "pem")
    return context, ssl.create_default_context(cadata=pem.decode())


def test_a_redirect_is_an_answer_like_any_other() -> None:
    seen = []

    def answer(connection: socket.socket) -> None:
        seen.append(received(connection))
        connection.sendall(b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1/\r\n\r\n")

    with server(answer) as port:
        assert Sender(insecure=True).post(f"http://127.0.0.1:{port}/", b"body", {}) == 307
    assert len(seen) == 1


def endless(connection: socket.socket) -> None:
    received(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(b"a" * 4096)


def test_a_body_without_end_is_not_read() -> None:
    with server(endless) as port:
        assert Sender(insecure=True).post(f"http://127.0.0.1:{port}/", b"body", {}) == 200


def nothing(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


def no_end_of_headers(connection: socket.socket) -> None:
    received(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"A: b\r\n")


def interim_without_end(connection: socket.socket) -> None:
    received(connection)
    while True:
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")


def garbage(connection: socket.socket) -> None:
    received(connection)
    connection.sendall(b"\x00\xff garbage\r\n\r\n")


WHOLE, SILENCE = Limits(5, 60, 0.2), Limits(5, 0.2, 60)


@pytest.mark.parametrize(
    ("answer", "limits"),
    [
        *itertools.product([nothing, no_end_of_headers, garbage], [WHOLE, SILENCE]),
        (interim_without_end, WHOLE),  # it is never silent
    ],
)
def test_who_does_not_answer_in_time_or_not_in_http_is_given_up(
    answer: Callable[[socket.socket], None], limits: Limits
) -> None:
    with server(answer) as port, pytest.raises((OSError, HTTPException)):
        Sender(limits, insecure=True).post(f"http://127.0.0.1:{port}/", b"body", {})


def test_a_signature_is_what_the_conventions_own_library_verifies() -> None:
    old, new, other = (signatures.new_secret() for _ in range(3))
    headers = signatures.signed([new, old], "msg_1", int(datetime.now(UTC).timestamp()), b'{"a": 1}')
    for secret in (old, new):
        assert Webhook(secret).verify('{"a": 1}', headers) == {"a": 1}
    with pytest.raises(WebhookVerificationError):
        Webhook(other).verify('{"a": 1}', headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(new).verify('{"a": 2}', headers)
