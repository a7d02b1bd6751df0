"""Running under gunicorn: threads in several processes, JSON logs, and an end that drops no request."""

import atexit
import errno
import gc
import mmap
import os
import select
import shutil
import signal
import socket
import struct
import tempfile
import time
from collections.abc import Callable
from typing import Any

from flask import Flask
from gunicorn import glogging, util
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.http import parser, wsgi
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import ThreadWorker

from service_kit.http.problems import CONTENT_TYPE, TooSlow, encode_problem
from service_kit.service import Service
from service_kit.telemetry import metrics
from service_kit.telemetry.logs import log

LINGER_MS = 5
"""How long a thread waits for the next request of its connection before it gives the connection back."""

SILENCE_SECONDS = 10
"""How long a client may be silent within its request, and how long it may take nothing of its answer."""

REQUEST_SECONDS = 30
"""How long a request may take to come in, however it trickles: it holds a thread."""

ENDING = {signal.SIGTERM, signal.SIGQUIT, signal.SIGINT}

_draining = mmap.mmap(-1, 1)  # anonymous and shared: what the parent writes after the fork, its workers read


class _Logger(glogging.Logger):  # type: ignore[misc]
    """gunicorn's own messages go the way of all logs; its access log is ours."""

    def setup(self, cfg: Any) -> None:
        self.error_log.propagate = True
        self.error_log.setLevel(cfg.loglevel.upper())

    def access(self, *_: Any) -> None:
        pass


def _readable(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(LINGER_MS))


class _Unreader(SocketUnreader):  # type: ignore[misc]
    """Reads requests, but waits for no client for ever. The system keeps the time: that costs a request nothing."""

    def __init__(self, sock: socket.socket, *arguments: Any) -> None:
        super().__init__(sock, *arguments)
        silence = struct.pack("ll", SILENCE_SECONDS, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, silence)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, silence)
        self.begin()

    def begin(self) -> None:
        """A request is about to come in."""
        self.deadline = time.monotonic() + REQUEST_SECONDS

    def chunk(self, size_hint: int | None = None) -> bytes:
        try:
            data: bytes = super().chunk(size_hint)
        except BlockingIOError:
            raise TooSlow(f"nothing came for {SILENCE_SECONDS} seconds") from None
        if time.monotonic() > self.deadline:
            raise TooSlow(f"the request took more than {REQUEST_SECONDS} seconds to come in")
        return data


def _send(sock: socket.socket, data: bytes, *, chunked: bool = False) -> None:
    try:
        util.write(sock, data, chunked)
    except BlockingIOError:
        raise ConnectionResetError(errno.ECONNRESET, "the client takes nothing of its answer") from None


class _Response(wsgi.Response):  # type: ignore[misc]
    """Sends an answer's head together with its body: one system call and one packet instead of two."""

    headers_sent: bool
    _head = b""

    def send_headers(self) -> None:
        if not self.headers_sent:
            lines = [*self.default_headers(), *(f"{name}: {value}\r\n" for name, value in self.headers), "\r\n"]
            self._head = "".join(lines).encode("latin-1")
            self.headers_sent = True

    def _emit_body(self, data: bytes) -> None:
        head, self._head = self._head, b""
        _send(self.sock, head if self.chunked else head + data)
        if self.chunked:
            _send(self.sock, data, chunked=True)

    def close(self) -> None:
        self.send_headers()
        if self._head:
            _send(self.sock, self._head)
        super().close()


class _Worker(ThreadWorker):  # type: ignore[misc]
    """gunicorn's threads, with less handing over and with nothing dropped at the end."""

    def handle(self, conn: Any) -> Any:
        """Answer a request, and the next ones of its connection too while there is a thread for every connection."""
        if _draining[0]:
            self.cfg.set("keepalive", 0)  # answers say Connection: close, so that clients go elsewhere
        kept = self._answer(conn)
        while kept is True and not _draining[0] and self.nr_conns <= self.cfg.threads and _readable(conn.sock):
            kept = self._answer(conn)
        return kept

    def _answer(self, conn: Any) -> Any:
        if conn.parser:
            conn.parser.unreader.begin()
        return super().handle(conn)

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException) -> None:
        if not isinstance(exc, TooSlow):
            super().handle_error(req, client, addr, exc)
        elif req is None:  # else it has had its answer
            self.log.info("request given up: %s", exc)
            _write_problem(client, 408, "Request Timeout", str(exc))

    def _cap_keepalive(self, deadline: float) -> None:
        """Wait at the end no longer for connections on which nothing has come yet than for idle ones."""
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, deadline)

    def init_signals(self) -> None:
        super().init_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)

    def set_accept_enabled(self, enabled: bool) -> None:
        """Answer what is already in the queue of new connections before leaving them, which would reset them."""
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            for listener in self.sockets:
                queued = True
                while queued:
                    before = self.nr_conns
                    self.accept(listener)
                    queued = self.nr_conns > before
                listener.close()


class _Arbiter(Arbiter):  # type: ignore[misc]
    """Lets readiness fall, and requests come in for a while yet, before the listening sockets are closed."""

    def spawn_worker(self) -> Any:
        """Start a worker. A signal to end that it gets before it can act on it is kept for it, not lost."""
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            return super().spawn_worker()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)

    def stop(self, graceful: bool = True) -> None:
        if graceful and not _draining[0]:
            _draining[0] = 1
            log.info("draining", seconds=self.app.settings.drain_seconds)
            time.sleep(self.app.settings.drain_seconds)
        super().stop(graceful)


def _write_problem(sock: socket.socket, status_int: int, reason: str, mesg: str) -> None:
    """Gunicorn's answer to what is no HTTP request, as a problem (RFC 9457) instead of a page."""
    body = encode_problem(status_int, mesg or reason)
    head = (
        f"HTTP/1.1 {status_int} {reason}\r\nConnection: close\r\nContent-Type: {CONTENT_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    util.write_nonblock(sock, head.encode("latin-1") + body)


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn, with the options of the service's settings."""

    def __init__(self, service: Service, create_app: Callable[[], Flask]) -> None:
        self.service = service
        self.settings = service.settings
        self.create_app = create_app
        super().__init__()

    def load_config(self) -> None:
        """Tell gunicorn what it has to know."""
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        options = {
            "bind": f"{host}:{self.settings.port}",
            "workers": self.settings.workers,
            "threads": self.settings.threads,
            "worker_class": _Worker,
            "worker_tmp_dir": "/dev/shm" if os.access("/dev/shm", os.W_OK) else None,
            "graceful_timeout": self.settings.graceful_timeout,
            "timeout": 60,
            "keepalive": self.settings.idle_seconds,
            "preload_app": True,
            "loglevel": self.settings.log_level,
            "logger_class": _Logger,
            "control_socket_disable": True,
            "forwarded_allow_ips": "",  # who may speak for others is told by TRUSTED_PROXIES alone
            "sendfile": False,  # it would overtake the head that waits for its body
            "post_fork": lambda _arbiter, _worker: self.start_worker(),
            "child_exit": lambda _arbiter, worker: metrics.worker_exited(worker.pid),
            "proc_name": self.service.name,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """The application, once, in the parent. What is there by now is never garbage, and workers share its pages."""
        application = self.create_app()
        gc.collect()
        gc.freeze()
        return application

    def start_worker(self) -> None:
        """What a worker needs of its own: connections, metrics, and the thread that sends traces."""
        service = self.service
        service.draining = lambda: bool(_draining[0])
        service.start_worker()
        metrics.start_worker(
            service.package, service.version, self.settings.revision, self.settings.threads, service.sample
        )
        if self.settings.otel_exporter_otlp_endpoint:
            service.tracer = service.start_tracer()
            atexit.register(service.tracer.close)

    def run(self) -> None:
        """Serve until told to end."""
        util.write_error = _write_problem
        wsgi.Response = _Response
        parser.SocketUnreader = _Unreader
        _Arbiter(self).run()


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # workers inherit what their parent registered
        shutil.rmtree(folder, ignore_errors=True)


def serve(service: Service, create_app: Callable[[], Flask]) -> None:
    """Serve the application until SIGTERM or SIGINT. It is created once, before the workers are forked."""
    settings = service.settings
    for note in settings.weaker:
        log.warning(note)
    metrics.prepare_folder()
    folder = os.environ["PROMETHEUS_MULTIPROC_DIR"]
    if not settings.prometheus_multiproc_dir and folder.startswith(tempfile.gettempdir()):
        atexit.register(_remove, folder, os.getpid())
    Server(service, create_app).run()
