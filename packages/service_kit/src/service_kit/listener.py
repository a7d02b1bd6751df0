"""The socket on which a service listens."""

import socket

BACKLOG = 2048
"""Connections that the system keeps until a worker accepts them."""


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket, made before anything else is touched. Raises OSError where that is impossible."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
