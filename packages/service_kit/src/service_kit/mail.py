"""Mail to the owners of addresses, sent by SMTP beside the requests that cause it."""

import smtplib
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from email.message import EmailMessage
from threading import BoundedSemaphore
from typing import Protocol
from urllib.parse import unquote, urlsplit

from service_kit.telemetry.logs import log

WAITING = 100
"""How many mails a worker holds that are not sent yet."""

ENCODED_WORD = "=?"
"""Begins an encoded word (RFC 2047), by which an address stands for another one, in any number of ways."""

SMTP_SECONDS = 20
PORTS = {"smtp": 587, "smtps": 465, "smtp+insecure": 25}


class QueueFull(Exception):
    """Too many mails wait to be sent; `retry_after` in seconds."""

    retry_after = 10

    def __init__(self) -> None:
        super().__init__(f"too many mails wait to be sent: try again in {self.retry_after} seconds")


class Post(Protocol):
    """Sends mail."""

    def send(self, to: str, subject: str, text: str) -> None:
        """Send a mail some time soon. Raises QueueFull where too many wait."""


class Mailer:
    """Sends mails one by one in a thread of its own, so no answer reveals by its duration whether one was sent.

    `url` is `smtp://user:password@host:port` (STARTTLS is required), `smtps://…` (TLS from the first byte), or
    `smtp+insecure://…` (no TLS). What cannot be sent is logged without its text; a user requests it again.
    """

    def __init__(self, url: str, sender: str) -> None:
        self._url = urlsplit(url)
        self._sender = sender
        self._places = BoundedSemaphore(WAITING)
        self._executor = ThreadPoolExecutor(1, "mail")  # its thread starts with the first mail

    def send(self, to: str, subject: str, text: str) -> None:
        """Send a mail some time soon. Raises QueueFull where too many wait, and ValueError for a bad address."""
        message = self._message(to, subject, text)
        if not self._places.acquire(blocking=False):
            raise QueueFull
        self._executor.submit(self._send, message)

    def deliver(self, to: str, subject: str, text: str, name: str) -> None:
        """Send a mail now, with a Message-ID that begins with `name`. Raises OSError, SMTPException or ValueError."""
        message = self._message(to, subject, text)
        message["Message-ID"] = f"<{name}@{self._sender.rpartition('@')[2].strip('>')}>"
        self._deliver(message)

    def _message(self, to: str, subject: str, text: str) -> EmailMessage:
        if ENCODED_WORD in to:
            raise ValueError(f"an address without {ENCODED_WORD} is expected")
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = self._sender, to, subject
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no vacation notice comes back
        message.set_content(text)
        return message

    def _deliver(self, message: EmailMessage) -> None:
        with self._connected() as server:
            server.send_message(message)

    def _send(self, message: EmailMessage) -> None:
        try:
            self._deliver(message)
        except (OSError, smtplib.SMTPException) as error:
            log.error("a mail was not sent", error=type(error).__name__, server=self._url.hostname)
        finally:
            self._places.release()

    @contextmanager
    def _connected(self) -> Iterator[smtplib.SMTP]:
        host, scheme = self._url.hostname or "", self._url.scheme
        port = self._url.port or PORTS[scheme]
        context = ssl.create_default_context()
        if scheme == "smtps":
            server: smtplib.SMTP = smtplib.SMTP_SSL(host, port, timeout=SMTP_SECONDS, context=context)
        else:
            server = smtplib.SMTP(host, port, timeout=SMTP_SECONDS)
        with server:
            if scheme == "smtp":
                server.starttls(context=context)
            if self._url.username:
                server.login(unquote(self._url.username), unquote(self._url.password or ""))
            yield server
