"""HTTP requests to addresses that strangers choose, such as webhooks, and never to where those must not lead.

A name is resolved once, every address that it has is checked, and the connection goes to a checked address, with the
name for TLS and Host: what the name means a moment later (DNS rebinding) does not matter. Redirects are not followed,
proxies of the environment are not used, and no cookie or credential is sent.
"""

import http.client
import io
import re
import socket
import ssl
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from time import monotonic
from typing import Any, NamedTuple
from urllib.parse import urlsplit

LONGEST_URL = 2000
UNREACHABLE = "the host has no address, or one that is not an address of the public internet"
"""Why nothing is sent to a name. One reason for both: strangers could learn which internal names exist."""

DEFAULT_PORTS = {"https": 443, "http": 80}
FIRST_FREE_PORT = 1024
NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?)*")
NUMBER = re.compile(r"\d+|0x[0-9a-f]*")
"""A last label that makes a host an IPv4 address (WHATWG URL, "ends in a number"), also a hexadecimal one."""

GLOBAL_IPV6 = ip_network("2000::/3")
SPECIAL = tuple(
    map(
        ip_network,
        (
            "192.0.0.0/24",  # IETF protocol assignments
            "192.88.99.0/24",  # 6to4 relays
            "168.63.129.16/32",  # Azure's metadata and agents, on an address that looks public
            "2001::/23",  # IETF protocol assignments, Teredo among them
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4, which holds an IPv4 address
            "3fff::/20",  # documentation
        ),
    )
)
"""What `is_global` does not refuse in each version of Python."""

Resolver = Callable[[str, int], list[str]]


class Refused(Exception):
    """The request must not be sent there; the message is the reason."""


class Target(NamedTuple):
    """The parts of a URL that was checked."""

    scheme: str
    host: str
    port: int
    path: str
    address: str | None
    """The host where it is an address itself."""


class Limits(NamedTuple):
    """How many seconds each step may take."""

    connect: float = 5
    read: float = 10
    total: float = 15
    """From connecting on; the resolver of the system has a limit of its own."""


def parse(url: str, *, insecure: bool = False) -> Target:
    """Return the parts of a URL, without resolving it. Raises Refused where it may not be requested.

    `insecure` is for tests: it also allows plain HTTP, every port, and the addresses of this machine and its networks.
    """
    if len(url) > LONGEST_URL or not re.fullmatch(r"[!-~]+", url) or "\\" in url:
        raise Refused(f"expected at most {LONGEST_URL} printable ASCII characters, no space and no backslash")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Refused("expected a URL such as https://hooks.example.org/tasks") from None
    if parts.scheme != "https" and not (insecure and parts.scheme == "http"):
        raise Refused("the scheme has to be https")
    if "@" in parts.netloc:
        raise Refused("a URL with a user or a password in it is not accepted")
    if "#" in url:
        raise Refused("a URL with a fragment is not accepted")
    port = DEFAULT_PORTS[parts.scheme] if port is None else port
    if not insecure and port != DEFAULT_PORTS["https"] and port < FIRST_FREE_PORT:
        raise Refused(f"the port has to be {DEFAULT_PORTS['https']}, or {FIRST_FREE_PORT} or higher")
    host = parts.hostname or ""
    address = _literal(host, bracketed="[" in parts.netloc)
    if address:
        check_address(address, insecure=insecure)
    elif not NAME.fullmatch(host):
        raise Refused("the host has to be a name of letters, digits and hyphens (IDNA: xn--…), or an IP address")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port, path, address)


def _literal(host: str, *, bracketed: bool) -> str | None:
    """Return a host that is an IP address, None for a name. Raises Refused for an unusual spelling of an address."""
    if not bracketed and not NUMBER.fullmatch(host.rpartition(".")[2]):
        return None
    try:
        return str(ip_address(host))
    except ValueError:
        raise Refused("an IP address has to be in its usual form: four decimal numbers, or IPv6 in brackets") from None


def check_address(address: str, *, insecure: bool = False) -> None:
    """Raise Refused unless the IP address is of the public internet; with `insecure` any will do but for a zone id."""
    if "%" in address:
        raise Refused(f"{address} has a zone id")
    known = ip_address(address)
    if insecure:
        return
    if isinstance(known, IPv6Address) and known.ipv4_mapped:
        known = known.ipv4_mapped
    if not _public(known):
        raise Refused(f"{address} is not an address of the public internet")


def _public(address: IPv4Address | IPv6Address) -> bool:
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    if isinstance(address, IPv6Address) and address not in GLOBAL_IPV6:  # NAT64 and all that is not yet assigned
        return False
    return not any(address in network for network in SPECIAL)


def resolve(host: str, port: int) -> list[str]:
    """Return all addresses that a name has, in the order in which they are to be tried. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Sender:
    """Sends requests; one is used by many threads at once."""

    def __init__(
        self,
        limits: Limits = Limits(),  # noqa: B008 - it is constant
        *,
        insecure: bool = False,
        resolver: Resolver = resolve,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._limits, self._insecure, self._resolver = limits, insecure, resolver
        self._context = context or ssl.create_default_context()

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Send a POST and return the status of its response, of which nothing else is read.

        Raises Refused, and OSError or HTTPException where there is no response in time.
        """
        target = parse(url, insecure=self._insecure)
        addresses = [target.address] if target.address else self._addresses(target)
        return self._send(target, self._connect(addresses, target.port), body, headers)

    def _addresses(self, target: Target) -> list[str]:
        """Return the addresses of a name. Raises Refused, which has the reason for the operator as its cause."""
        try:
            addresses = self._resolver(target.host, target.port)
            for address in addresses:  # one that is forbidden forbids all: nobody has such a name by accident
                check_address(address, insecure=self._insecure)
        except (OSError, Refused) as error:
            raise Refused(UNREACHABLE) from error
        if not addresses:
            raise Refused(UNREACHABLE)
        return addresses

    def _connect(self, addresses: list[str], port: int) -> socket.socket:
        error = OSError()
        for address in addresses[:2]:
            try:
                return socket.create_connection((address, port), self._limits.connect)
            except OSError as failed:
                error = failed
        raise error

    def _send(self, target: Target, sock: socket.socket, body: bytes, headers: Mapping[str, str]) -> int:
        with sock:
            if target.scheme == "https":
                sock = self._context.wrap_socket(sock, server_hostname=target.host, do_handshake_on_connect=False)
            with sock:
                limited = _Limited(sock, self._limits)
                limited.wait()
                if isinstance(sock, ssl.SSLSocket):
                    sock.do_handshake()
                connection = http.client.HTTPConnection(target.host, target.port)
                connection.default_port = DEFAULT_PORTS[target.scheme]
                connection.sock = limited
                connection.request("POST", target.path, body, {**headers, "Connection": "close"})
                return connection.getresponse().status


class _Limited(io.RawIOBase):
    """A connection with an end, however often something comes by it; what `http.client` needs of a socket."""

    def __init__(self, sock: socket.socket, limits: Limits) -> None:
        self._sock, self._limits = sock, limits
        self._end = monotonic() + limits.total

    def wait(self) -> socket.socket:
        """Return the socket with the time that is left for its next operation. Raises TimeoutError at the end."""
        left = self._end - monotonic()
        if left <= 0:
            raise TimeoutError(f"no response within {self._limits.total:g} seconds")
        self._sock.settimeout(min(left, self._limits.read))
        return self._sock

    def sendall(self, data: bytes) -> None:
        self.wait().sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self.wait().recv_into(buffer)
