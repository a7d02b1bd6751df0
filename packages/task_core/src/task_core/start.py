"""How a worker process of a service delivers to webhooks, and sends reminders."""

import atexit
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import NamedTuple

from service_kit.mail import Mailer
from service_kit.outbound import Sender
from service_kit.telemetry.traces import Tracer
from task_core import telemetry
from task_core.config import Settings
from task_core.database import Database
from task_core.delivery import RESULTS, Deliverer
from task_core.encryption import Keyring
from task_core.reminder_mails import RESULTS as MAIL_RESULTS
from task_core.reminder_mails import ReminderMails
from task_core.reminders import RESULTS as REMINDER_RESULTS
from task_core.reminders import Reminders

Reminding = list[Reminders | ReminderMails]
"""Who puts reminders out, and who mails them where mail can be sent."""


class Delivery(NamedTuple):
    """Who delivers to webhooks, and who sends reminders."""

    deliverer: Deliverer
    reminding: Reminding

    def end(self) -> None:
        """Begin nothing more."""
        for one in (*self.reminding, self.deliverer):
            one.end()


def start_delivery(
    settings: Settings, database: Database, *, insecure: bool, tracer: Tracer | None, listens: bool = False
) -> Delivery:
    """Start to deliver and to remind in threads, which end with the process after what they do then. Return who does.

    `insecure` is for tests: any address, also without TLS. `listens`: PostgreSQL's notifications wake it.
    """
    post = Mailer(settings.smtp_url, settings.mail_from) if settings.smtp_url else None
    keyring, sender = Keyring(settings.encryption_keys), Sender(insecure=insecure)
    report, sample = telemetry.delivered, telemetry.undelivered
    deliverer = Deliverer(database, keyring, sender, report, sample, post=post, listens=listens, tracer=tracer)
    for result in RESULTS:  # else the first of each would be no increase of anything
        telemetry.delivered(result, 0)
    deliverer.start()
    atexit.register(deliverer.stop)
    return Delivery(deliverer, start_reminding(settings, database, deliverer.wake))


def start_reminding(settings: Settings, database: Database, wake: Callable[[], None] = lambda: None) -> Reminding:
    """Start to put reminders out in a thread, and to mail them in another where mail can be sent. Return who does."""
    due = telemetry.reminders_due
    by_mail = bool(settings.smtp_url)
    outbox = Reminders(database, wake, telemetry.put_out, by_mail=by_mail, sample=partial(due, "outbox"))
    started: Reminding = [outbox]
    if by_mail:
        mailer = Mailer(settings.smtp_url, settings.mail_from)
        started.append(ReminderMails(database, mailer, telemetry.reminded, partial(due, "mail")))
    for result, late in product((*REMINDER_RESULTS, *MAIL_RESULTS), (False, True)):
        telemetry.reminded(result, late, 0)
    for one in started:
        one.start()
        atexit.register(one.stop)
    return started
