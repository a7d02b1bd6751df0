"""gunicorn 27.0's threaded worker, changed so that no thread ever waits for a client.

A connection is with the poller (the worker's main thread) while its request comes in and while its response is taken,
and with a thread only in between. Each override of gunicorn's has its reason in its docstring; check them against its
source before a newer gunicorn is locked.
"""

import io
import math
import mmap
import random
import re
import select
import selectors
import signal
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from enum import Enum, auto
from functools import lru_cache, partial
from http import HTTPStatus
from typing import Any

from gunicorn import glogging, util
from gunicorn.arbiter import Arbiter
from gunicorn.http import errors, wsgi
from gunicorn.http.body import Body, ChunkedReader, LengthReader
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, ThreadWorker

from service_kit.http.problems import CONTENT_TYPE, Refusal, encode_problem
from service_kit.http.requests import ALWAYS, HTTPS_ONLY, UNLESS_GIVEN
from service_kit.http.streams import HOLD, Stream
from service_kit.telemetry import metrics
from service_kit.telemetry.logs import log

LINGER_MS = 5
"""How long an idle thread waits for the next request of its connection before the poller has the connection back."""

PLACES = 4096
"""Connections of one worker at most. Beyond, one of those that wait for their client is closed for each new one."""

HEAD_BYTES = 32 * 1024
"""The request line and the header fields together at most."""

AHEAD_BYTES = 256 * 1024
"""So much of a response is made before its client has taken any of it."""
HELD_BYTES = 32 * 2**20
"""What a worker keeps at most of requests that are not in yet and of responses that are not taken yet."""

SMALL_BYTES = 4096
"""Requests up to this size are served even while HELD_BYTES are used up."""

DISCARDED_BYTES = 64 * 2**20
"""What is read at most of a body that nobody wants, so that its client gets to read the response."""

LIVENESS = (b"GET /livez ", b"HEAD /livez ", b"GET /health ", b"HEAD /health ")
"""Requests with a thread of their own: they are answered while all others wait for a database."""

READ_BYTES = 64 * 1024
HEAD_END = b"\r\n\r\n"
BARE_LF = re.compile(rb"(?<!\r)\n")
CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n]*)?\r\n")

STANDING = frozenset((*ALWAYS, *UNLESS_GIVEN, *HTTPS_ONLY))
"""The header fields that are the same in all responses."""

draining = mmap.mmap(-1, 1)
"""Anonymous and shared: what the parent writes after the fork, its workers read."""

ENDING = {signal.SIGTERM, signal.SIGQUIT, signal.SIGINT}


class Phase(Enum):
    """What the poller waits for on a connection; those named first are closed first where places run out."""

    PARTING = auto()
    """The response is taken; the client may still be sending what nobody wants."""
    IDLE = auto()
    STREAMING = auto()
    """The client has taken what a stream has sent; its next silence is broken by a heartbeat."""
    RECEIVING = auto()
    SENDING = auto()


SECONDS: dict[Phase, tuple[float, float]] = {
    Phase.PARTING: (2, 30),
    Phase.STREAMING: (15, math.inf),
    Phase.RECEIVING: (10, 30),
    Phase.SENDING: (10, 300),
}
"""How long a client may be silent in a phase, and how long the phase may last. IDLE has gunicorn's keepalive."""

STREAM_SECONDS = 3600.0
"""How long a stream lasts at most. Then its client opens another, perhaps on a replica that has fewer."""

HEARTBEAT = b":\n\n"
"""A comment (WHATWG HTML, section 9.2.6): proxies see that the connection lives, and we whether its client does."""

PARSE_PROBLEMS: dict[type[Exception], tuple[int, str]] = {
    errors.LimitRequestLine: (414, "the request line is too long"),
    errors.LimitRequestHeaders: (431, "the header fields are too many or too long"),
    errors.UnsupportedTransferCoding: (501, "the only transfer coding here is chunked"),
    errors.ExpectationFailed: (417, "the only expectation here is 100-continue"),
    errors.InvalidRequestLine: (400, "the request line is not valid (RFC 9112, section 3)"),
    errors.InvalidRequestMethod: (400, "the method is not valid (RFC 9110, section 9)"),
    errors.InvalidHTTPVersion: (400, "the version has to be HTTP/1.1 or HTTP/1.0"),
    errors.InvalidChunkSize: (400, "a chunk's size is not valid (RFC 9112, section 7.1)"),
    errors.InvalidChunkExtension: (400, "a chunk's extension is not valid (RFC 9112, section 7.1.1)"),
    errors.ChunkMissingTerminator: (400, "a chunk does not end as it must (RFC 9112, section 7.1)"),
    errors.ParseException: (400, "a header field is not valid (RFC 9110, section 5)"),
}
"""The response to each of the parser's errors. Their messages quote the client, who may have sent a secret."""


class Socket(socket.socket):
    """A socket that never blocks: what its client does not take at once is kept until `flush`."""

    def __init__(self, accepted: socket.socket) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        self.setblocking(False)
        self.unsent: deque[memoryview] = deque()
        self.kept = 0
        """The bytes in `unsent`."""
        self.stream: Stream | None = None
        """What goes on once the response is sent."""
        self.rest: Parts | None = None
        """What is made of the response once its client has taken what there is."""

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send what the client takes now and keep the rest. Raises OSError where the client has gone."""
        self.unsent.append(memoryview(data))
        self.kept += len(data)
        if len(self.unsent) == 1:
            self.flush(flags)

    def flush(self, flags: int = 0) -> None:
        """Send what the client takes now of what is kept. Raises OSError where the client has gone."""
        while self.unsent:
            data = self.unsent[0]
            try:
                sent = self.send(data, flags)
            except BlockingIOError:
                return
            self.kept -= sent
            if sent < len(data):
                self.unsent[0] = data[sent:]
            else:
                self.unsent.popleft()

    def forget(self) -> None:
        """Forget what is kept: the client has gone."""
        self.unsent.clear()
        self.kept = 0


class _Oversized(io.RawIOBase):
    """The body of a request that is larger than the service takes."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def readable(self) -> bool:
        return True

    def readinto(self, _buffer: Any) -> int:
        raise Refusal(413, f"a request's body has at most {self.limit} bytes")


class Connection:
    """A client's connection: what has come in on it, and what is known of the request that this is part of."""

    def __init__(self, sock: Socket, client: Any, server: Any, largest_body: int) -> None:
        self.sock = sock
        self.client = client
        self.server = server
        self.largest_body = largest_body
        self.received = bytearray()
        self.request: Any = None
        """The request whose head is in."""
        self.closing = False
        self.phase: Phase | None = None
        """None while it is with a thread."""
        self.since = self.deadline = 0.0
        self.held: dict[int, int] = {}
        """The size of each object in memory that it keeps, by identity."""
        self.discarded = 0
        self._requests = 0
        self._scanned = 0
        self._announced = 0
        self._oversized = False
        self.refused = False
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def readable(self, milliseconds: int) -> bool:
        """Return whether something comes in within this time."""
        return bool(self._poll.poll(milliseconds))

    def receive(self) -> bool:
        """Take what has come in; return False where the client sends no more. Raises OSError where it has gone."""
        try:
            data = self.sock.recv(READ_BYTES)
        except BlockingIOError:
            return True
        self.received += data
        return bool(data)

    def complete(self) -> bool:
        """Return whether a thread can go on without waiting: a head is in, or the body too where the head is known."""
        if self.request is None:
            return self._head_is_in()
        if self._oversized:
            return True
        reader = self.request.body.reader
        return len(self.received) >= reader.length if isinstance(reader, LengthReader) else self._chunks_are_in()

    def _head_is_in(self) -> bool:
        """Return whether a head is in, or is already too long or malformed: then the parser reports the fault."""
        received, start = self.received, max(0, self._scanned - len(HEAD_END) + 1)
        if received.find(HEAD_END, start) >= 0 or len(received) > HEAD_BYTES or BARE_LF.search(received, start):
            return True
        self._scanned = len(received)
        return False

    def _chunks_are_in(self) -> bool:
        """Skip from chunk to chunk. The parser alone judges them; what it would refuse is not waited for."""
        received = self.received
        while True:
            if self._announced > self.largest_body or len(received) > 2 * self.largest_body + HEAD_BYTES:
                self._oversized = True
                return True
            line = CHUNK_SIZE.match(received, self._scanned)
            if line is None:
                rest = len(received) - self._scanned
                return received.find(b"\n", self._scanned) >= 0 or rest > HEAD_BYTES
            if not (size := int(line[1], 16)):
                end = line.end()
                return (
                    received.startswith(b"\r\n", end)
                    or received.find(HEAD_END, end) >= 0
                    or len(received) - end > HEAD_BYTES
                    or BARE_LF.search(received, end) is not None
                )
            if len(received) < line.end() + size + 2:
                self._oversized = self._announced + size > self.largest_body
                return self._oversized
            self._announced += size
            self._scanned = line.end() + size + 2

    def read_head(self, cfg: Any) -> None:
        """Parse the head that is in, and request the body where the client waits for that. Raises ParseException."""
        if len(self.received) > HEAD_BYTES and self.received.find(HEAD_END, 0, HEAD_BYTES) < 0:
            in_its_first_line = self.received.find(b"\r\n", 0, HEAD_BYTES) < 0
            raise errors.LimitRequestLine(HEAD_BYTES) if in_its_first_line else errors.LimitRequestHeaders("")
        unreader = IterUnreader([bytes(self.received)])
        self._requests += 1
        self.request = request = Request(cfg, unreader, self.client, self._requests)
        request.version = min(
            request.version, (1, 1)
        )  # the version of the response, also to a client of a later HTTP/1
        self.received = bytearray(unreader.take_buffered())
        self._scanned = self._announced = 0
        reader = request.body.reader
        self._oversized = isinstance(reader, LengthReader) and reader.length > self.largest_body
        if request._expected_100_continue:  # noqa: SLF001 - gunicorn would send it when the body is in already
            request._expected_100_continue = False  # noqa: SLF001
            if not self.complete():
                self.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

    def take_request(self) -> Any:
        """Return the request with its whole body in memory. Raises ParseException."""
        request, self.request = self.request, None
        self._scanned = 0
        if self._oversized:
            request.body = _Oversized(self.largest_body)
            request.force_close()
        elif isinstance(request.body.reader, ChunkedReader):
            unreader = IterUnreader([bytes(self.received)])
            try:
                body = Body(ChunkedReader(request, unreader)).read()
            except errors.NoMoreData:
                raise errors.ChunkMissingTerminator(b"") from None
            request.body = io.BytesIO(body)
            self.received = bytearray(unreader.take_buffered())
        else:
            length = request.body.reader.length
            request.body = io.BytesIO(self.received[:length])
            del self.received[:length]
        return request

    def unread(self) -> bool:
        """Return whether the client sends what nobody will read. Raises OSError where it has gone."""
        return self.refused or self._oversized or bool(self.received) or (self.receive() and bool(self.received))


class Response(wsgi.Response):  # type: ignore[misc]
    """Sends a response's head together with its body: one system call and one packet instead of two."""

    headers: list[tuple[str, str]]
    headers_sent: bool
    sock: Socket
    _head = b""

    def hold(self, stream: Stream) -> None:
        """Leave the connection with the stream once this is sent; its end is the connection's (RFC 9112, 6.3)."""
        self.sock.stream = stream
        self.force_close()

    def process_headers(self, headers: list[tuple[str, str]]) -> None:
        """Check the fields as gunicorn does, but for those that are the same in all responses."""
        self.headers += [field for field in headers if field in STANDING]
        super().process_headers([field for field in headers if field not in STANDING])

    def is_chunked(self) -> bool:
        return self.sock.stream is None and bool(super().is_chunked())

    def send_headers(self) -> None:
        if not self.headers_sent:
            lines = [*self.default_headers(), *(f"{name}: {value}\r\n" for name, value in self.headers), "\r\n"]
            self._head = "".join(lines).encode("latin-1")
            self.headers_sent = True

    def _emit_body(self, data: bytes) -> None:
        head, self._head = self._head, b""
        if head and not self.chunked and len(data) <= READ_BYTES:
            self.sock.sendall(head + data)
        else:
            if head:
                self.sock.sendall(head)
            util.write(self.sock, data, self.chunked)

    def ahead(self) -> bool:
        """Return whether the client has to take something before more of the body is made."""
        complete = self.response_length is not None and self.sent >= self.response_length
        return self.sock.kept > AHEAD_BYTES and self.sock.stream is None and not complete

    def close(self) -> None:
        if self.sock.rest:
            return
        self.send_headers()
        if self._head:
            self.sock.sendall(self._head)
        super().close()


class Parts:
    """The body of a response, made only a little further than its client has taken it."""

    def __init__(self, parts: Any, response: Response) -> None:
        self._parts, self._response = parts, response
        self._left = iter(parts)

    def __iter__(self) -> Iterator[bytes]:
        """Yield parts until there is enough for the client to take."""
        for part in self._left:
            yield part
            if self._response.ahead():
                self._response.sock.rest = self
                return

    def go_on(self) -> None:
        """Send more parts, and the end of the response after the last one."""
        self._response.sock.rest = None
        for part in self:
            self._response.write(part)
        self._response.close()
        self.close()

    def close(self) -> None:
        """Let go of what makes the parts, unless more of them follow later."""
        if self._response.sock.rest is not self and hasattr(self._parts, "close"):
            self._parts.close()

    def abandon(self) -> None:
        """Let go of what makes the parts: nobody takes them."""
        self._response.sock.rest = None
        try:
            self.close()
        except Exception:  # noqa: BLE001 - the application's
            log.exception("the end of a response failed")


class Worker(ThreadWorker):  # type: ignore[misc]
    """gunicorn's run loop, thread pool and WSGI call, around connections that never block."""

    wsgi: Any

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.waiting: dict[Phase, dict[Connection, None]] = {phase: {} for phase in Phase}
        """The poller's connections, those first that have been in their phase longest."""
        self.streams: dict[Connection, Stream] = {}
        self.active = 0
        """Connections that are with threads, or queued for them."""
        self.held = 0
        """Bytes in memory that connections keep; what several of them keep (a file of /docs) counts once."""
        self.holders: Counter[int] = Counter()
        self.threads: int = self.cfg.threads
        self._swept = 0.0

    def init_process(self) -> None:
        wsgi.Response = Response
        self._keep_what_all_requests_share()
        self.probes = ThreadPoolExecutor(1)
        super().init_process()

    def _keep_what_all_requests_share(self) -> None:
        """Make once what gunicorn makes for each request: a third of what its part of one costs."""
        of_second = lru_cache(1)(util.http_date)
        util.http_date = lambda: of_second(int(time.time()))
        environ = wsgi.base_environ(self.cfg)
        wsgi.base_environ = lambda _cfg: {**environ}
        self.cfg.__dict__.update({name: setting.get() for name, setting in self.cfg.settings.items()})

    def load_wsgi(self) -> None:
        """Offer the application to hold a connection, while streams have less than half of the places.

        What it makes of a body waits for the client, without a thread.
        """
        super().load_wsgi()
        application = self.wsgi

        def offering(environ: Any, start_response: Any) -> Any:
            if len(self.streams) < self.worker_connections // 2:
                environ[HOLD] = start_response.__self__.hold
            return Parts(application(environ, start_response), start_response.__self__)

        self.wsgi = offering

    def init_signals(self) -> None:
        """Let in the signals that the parent has blocked for the time of the start."""
        super().init_signals()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # of a terminal that is closed: the parent ends its workers
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)

    # What follows runs in the main thread.

    def accept(self, listener: Any) -> bool:
        """Accept a connection and check at once whether its request is in; gunicorn would pass it to a thread first."""
        try:
            accepted, client = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return False
        except OSError as error:  # no file descriptor is left, or no memory
            log.warning("no connection can be accepted", error=str(error))
            self._make_room()
            return False
        self.nr_conns += 1
        conn = Connection(Socket(accepted), client, listener.getsockname(), self.app.settings.max_body_bytes)
        if self.nr_conns >= self.worker_connections:
            self._make_room()
        self._receive(conn)
        return True

    def set_accept_enabled(self, enabled: bool) -> None:
        """Accept what is already in the queue of new connections before leaving them, which would reset them."""
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            for listener in self.sockets:
                while self.accept(listener):
                    pass
                listener.close()

    def _make_room(self) -> None:
        for connections in self.waiting.values():
            for conn in connections:
                self._drop(conn, "places")
                return

    def _receive(self, conn: Connection, _sock: object = None) -> None:
        try:
            open_still = conn.receive()
        except OSError:
            open_still = False
        if open_still:
            self._settle(conn)
        else:
            self._drop(conn)

    def _send(self, conn: Connection, _sock: object) -> None:
        try:
            conn.sock.flush()
        except OSError:
            self._drop(conn)
        else:
            self._settle(conn)

    def _discard(self, conn: Connection, _sock: object) -> None:
        try:
            data = conn.sock.recv(READ_BYTES)
        except OSError:
            data = b""
        conn.discarded += len(data)
        if data and conn.discarded <= DISCARDED_BYTES:
            self._wait(conn, Phase.PARTING)
        else:
            self._drop(conn)

    def _settle(self, conn: Connection) -> None:
        """Decide who has the connection now: the poller, in one of its phases, or a thread."""
        if conn.sock.unsent:
            self._wait(conn, Phase.SENDING)
        elif conn.sock.rest:
            self._leave(conn)
            self._submit(conn, self.tpool, self.go_on)
        elif conn in self.streams:
            self._rest(conn)
        elif conn.closing:
            self._part(conn)
        elif conn.complete():
            self._leave(conn)
            self.enqueue_req(conn)
        else:
            self._wait(conn, Phase.RECEIVING if conn.received or conn.request else Phase.IDLE)

    def _part(self, conn: Connection) -> None:
        """Close; but where the client is still sending, a reset would take the response from it (RFC 9112, 9.6)."""
        try:
            lingers = conn.unread()
            if lingers:
                conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            lingers = False
        if lingers:
            conn.received.clear()
            self._wait(conn, Phase.PARTING)
        else:
            self._drop(conn)

    def _wait(self, conn: Connection, phase: Phase) -> None:
        """Leave the connection to the poller; whatever its client does lets it be silent anew."""
        now = time.monotonic()
        if conn.phase is not phase:
            self._leave(conn)
            conn.phase, conn.since = phase, now
            self.waiting[phase][conn] = None
            event = selectors.EVENT_WRITE if phase is Phase.SENDING else selectors.EVENT_READ
            actions = {Phase.PARTING: self._discard, Phase.STREAMING: self._overhear, Phase.SENDING: self._send}
            self.poller.register(conn.sock, event, partial(actions.get(phase, self._receive), conn))
        silence, whole = SECONDS.get(phase) or (self._idle_seconds(),) * 2
        conn.deadline = min(now + silence, conn.since + whole)
        self._account(conn)

    def _idle_seconds(self) -> float:
        return float(self.cfg.keepalive if self.alive else STOP_KEEPALIVE_LINGER)

    def _leave(self, conn: Connection) -> None:
        if conn.phase is not None:
            self.poller.unregister(conn.sock)
            del self.waiting[conn.phase][conn]
            conn.phase = None

    def _drop(self, conn: Connection, reason: str = "client") -> None:
        """Close at once; `reason` is why, where it has a stream."""
        self._end(conn, reason)
        if conn.sock.rest:
            conn.sock.rest.abandon()
        self._leave(conn)
        self.nr_conns -= 1
        self._count(conn, {})
        conn.sock.close()

    def _account(self, conn: Connection) -> None:
        """Keep what is held in memory within its bound: those go first that have taken longest."""
        held = {id(data.obj): data.obj.__sizeof__() for data in conn.sock.unsent}
        self._count(conn, {**held, id(conn): len(conn.received)})
        while self.held > HELD_BYTES:
            for phase in (Phase.SENDING, Phase.RECEIVING):
                slowest = next(iter(self.waiting[phase]), None)
                if slowest:
                    self._drop(slowest, "slow")
                    break
            else:
                return

    def _count(self, conn: Connection, held: dict[int, int]) -> None:
        for identity, size in conn.held.items():
            self.holders[identity] -= 1
            if not self.holders[identity]:
                del self.holders[identity]
                self.held -= size
        for identity, size in held.items():
            self.held += 0 if self.holders[identity] else size
            self.holders[identity] += 1
        conn.held = held

    def _expire(self, conn: Connection) -> None:
        if conn.phase is Phase.RECEIVING:
            self._refuse(conn, 408, "the request did not come in: it stopped, or was too slow")
            conn.closing = True
            self._settle(conn)
        elif conn.phase is Phase.STREAMING and time.monotonic() < self.streams[conn].ends_at:
            self._transmit(conn, HEARTBEAT)
        elif conn.phase is Phase.STREAMING:
            self._end(conn, "age")
            self._settle(conn)
        else:
            self._drop(conn, "slow")

    def murder_keepalived(self, force: bool = False) -> None:
        """Close the connections whose time is over, once a second. gunicorn has one for all, this worker five.

        Streams end as soon as the service does: their clients go elsewhere.
        """
        if draining[0] or not self.alive:
            for conn in [*self.streams]:
                self._end(conn, "drain")
                self._settle(conn)
        now = time.monotonic()
        if force or now > self._swept + 1:
            self._swept = now
            every = [conn for connections in self.waiting.values() for conn in connections]
            for conn in every:
                if force:
                    self._drop(conn)
                elif conn.deadline <= now:
                    self._expire(conn)

    def _cap_keepalive(self, deadline: float) -> None:
        """Wait at the end no longer than until `deadline` for a request to begin."""
        for conn in self.waiting[Phase.IDLE]:
            conn.deadline = min(conn.deadline, deadline)

    def enqueue_req(self, conn: Connection) -> None:
        """Pass a connection to a thread. Large requests are refused while the memory for them is used up."""
        self._account(conn)
        if self.held > HELD_BYTES and len(conn.received) > SMALL_BYTES:
            self._refuse(conn, 503, "too many large requests at once: try again", {"Retry-After": "2"})
            conn.closing = True
            self._settle(conn)
            return
        pool = self.probes if conn.request is None and conn.received.startswith(LIVENESS) else self.tpool
        self._submit(conn, pool, partial(self.handle, lingers=pool is self.tpool))

    def _submit(self, conn: Connection, pool: ThreadPoolExecutor, work: Callable[[Connection], bool]) -> None:
        self.active += 1
        future = pool.submit(work, conn)
        future.add_done_callback(lambda done: self.method_queue.defer(self.finish_request, conn, done))

    def finish_request(self, conn: Connection, done: Any) -> None:
        """Take the connection back from a thread."""
        self.active -= 1
        conn.closing = done.cancelled() or done.exception() is not None or not done.result()
        if stream := conn.sock.stream:
            stream.ends_at = time.monotonic() + STREAM_SECONDS * random.uniform(0.75, 1)
            stream.deliver = partial(self.method_queue.defer, self._deliver, conn)
            self.streams[conn] = stream
            metrics.streams(len(self.streams))
        self._settle(conn)

    def _rest(self, conn: Connection) -> None:
        """Leave a stream to the poller: its client has taken all that there was."""
        stream = self.streams[conn]
        self._wait(conn, Phase.STREAMING)
        conn.deadline = min(conn.deadline, stream.ends_at)
        if stream.delivered:  # a heartbeat may overtake what was sent
            stream.delivered, stream.idle = False, True
            stream.taken()

    def _deliver(self, conn: Connection, data: bytes, reason: str) -> None:
        """Send more of a stream, which ends with that where there is a reason."""
        if conn not in self.streams:
            return
        self.streams[conn].delivered = True
        if conn.sock.unsent:
            self._drop(conn, "slow")
        else:
            self._transmit(conn, data, reason)

    def _transmit(self, conn: Connection, data: bytes, reason: str = "") -> None:
        try:
            conn.sock.sendall(data)
        except OSError:
            self._drop(conn)
            return
        if reason:
            self._end(conn, reason)
        self._settle(conn)

    def _end(self, conn: Connection, reason: str) -> None:
        """End a stream, if there is one; the connection is closed once its client has taken what there is."""
        if stream := self.streams.pop(conn, None):
            metrics.streams(len(self.streams), reason)
            conn.sock.stream = None
            stream.closed()

    def _overhear(self, conn: Connection, _sock: object) -> None:
        """Read what a client sends that listens: nobody wants it, and its end is the stream's."""
        try:
            data = conn.sock.recv(READ_BYTES)
        except OSError:
            data = b""
        conn.discarded += len(data)
        if not data or conn.discarded > DISCARDED_BYTES:
            self._drop(conn)

    # What follows runs in a thread that has the connection for itself.

    def handle(self, conn: Connection, lingers: bool = True) -> bool:
        """Answer the requests of a connection; return whether it stays open."""
        try:
            return self._serve(conn, lingers)
        except (errors.InvalidResponseHeader, errors.InvalidResponseHeaderName):  # subclasses of the client's errors
            self._fail(conn)
        except errors.ParseException as error:
            self._refuse(conn, *next(known for kind, known in PARSE_PROBLEMS.items() if isinstance(error, kind)))
        except OSError as error:
            log.debug("the client has gone", error=type(error).__name__)
            conn.sock.forget()
        except Exception:  # noqa: BLE001 - the application answers its own
            self._fail(conn)
        if stream := conn.sock.stream:
            conn.sock.stream = None
            stream.closed()
        return False

    def go_on(self, conn: Connection) -> bool:
        """Send more of a response; return whether the connection stays open."""
        rest = conn.sock.rest
        assert rest is not None  # the poller has looked
        try:
            rest.go_on()
        except OSError as error:
            log.debug("the client has gone", error=type(error).__name__)
            conn.sock.forget()
        except Exception:  # noqa: BLE001 - the response has begun: its client sees that it breaks off
            log.exception("a response broke off")
        else:
            return not conn.closing
        rest.abandon()
        return False

    def _serve(self, conn: Connection, lingers: bool) -> bool:
        """Answer what has come in, and what follows soon while there are idle threads."""
        while True:
            idle = lingers and self._thread_is_idle()
            if conn.complete():
                if conn.request is None:
                    conn.read_head(self.cfg)
                elif not self._answer(conn):
                    return False
                elif conn.sock.unsent or not idle:
                    return True
            elif not conn.readable(LINGER_MS if idle else 0):
                return True
            elif not conn.receive():
                return False

    def _thread_is_idle(self) -> bool:
        """Return whether a thread may stay with its connection: while no other request has to wait for that."""
        return not draining[0] and (self.active < self.threads or self.nr_conns <= self.threads)

    def _answer(self, conn: Connection) -> bool:
        request = conn.take_request()
        if draining[0]:
            request.force_close()  # clients go elsewhere
        kept: bool = self.handle_request(request, conn)
        return kept

    def _fail(self, conn: Connection) -> None:
        log.exception("unexpected error")
        self._refuse(conn, 500, "an unexpected error; the log has it")

    @staticmethod
    def _refuse(conn: Connection, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        """Answer what is no request with a problem (RFC 9457). Nothing that the client sent is in it."""
        log.info("request refused", status=status, reason=detail)
        conn.refused = True
        body = encode_problem(status, detail)
        fields = {
            "Date": util.http_date(),
            "Connection": "close",
            "Content-Type": CONTENT_TYPE,
            "Content-Length": len(body),
            **(headers or {}),
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        try:
            conn.sock.sendall(f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{lines}\r\n".encode() + body)
        except OSError:
            conn.sock.forget()


class Logger(glogging.Logger):  # type: ignore[misc]
    """gunicorn's own messages go the way of all logs; the access log is the application's."""

    def setup(self, cfg: Any) -> None:
        self.error_log.propagate = True
        self.error_log.setLevel(cfg.loglevel.upper())

    def access(self, *_: Any) -> None:
        pass


class Master(Arbiter):  # type: ignore[misc]
    """Lets readiness fall, and requests come in for a while yet, before the listening sockets are closed."""

    def spawn_worker(self) -> Any:
        """Start a worker. A signal to end that it gets before it can act on it is kept for it, not lost."""
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            return super().spawn_worker()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)

    def init_signals(self) -> None:
        """Leave SIGHUP ignored where it is (nohup)."""
        ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        super().init_signals()
        if ignored:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def handle_hup(self) -> None:
        """End: the terminal is closed. gunicorn would reload, but there is no file of settings to read again."""
        self.handle_term()

    def stop(self, graceful: bool = True) -> None:
        if graceful and not draining[0]:
            draining[0] = 1
            log.info("draining", seconds=self.app.settings.drain_seconds)
            time.sleep(self.app.settings.drain_seconds)
        super().stop(graceful)
