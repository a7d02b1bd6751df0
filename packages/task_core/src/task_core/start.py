"""How a worker process of a service delivers to webhooks, and sends reminders."""

import atexit
from functools import partial
from itertools import product
from typing import NamedTuple

from service_kit.mail import Mailer
from service_kit.outbound import Sender
from task_core import telemetry
from task_core.config import Settings
from task_core.database import Database
from task_core.delivery import RESULTS, Deliverer
from task_core.reminder_mails import RESULTS as MAIL_RESULTS
from task_core.reminder_mails import ReminderMails
from task_core.reminders import Reminders


class Delivery(NamedTuple):
    """Who delivers to webhooks, who puts reminders out, and who mails them, where mail can be sent."""

    deliverer: Deliverer
    reminders: Reminders
    mails: ReminderMails | None

    def end(self) -> None:
        """Begin nothing more."""
        self.reminders.end()
        if self.mails:
            self.mails.end()
        self.deliverer.end()


def start_delivery(settings: Settings, database: Database, *, insecure: bool, listens: bool = False) -> Delivery:
    """Start to deliver in threads, which end with the process after what they deliver then. Return who delivers.

    `insecure` is for tests: any address, also without TLS. `listens`: PostgreSQL's notifications wake it.
    """
    post = Mailer(settings.smtp_url, settings.mail_from) if settings.smtp_url else None
    sender = Sender(insecure=insecure)
    deliverer = Deliverer(database, sender, telemetry.delivered, telemetry.undelivered, post=post, listens=listens)
    reminders = Reminders(
        database,
        deliverer.wake,
        telemetry.put_out,
        by_mail=post is not None,
        sample=partial(telemetry.reminders_due, "outbox"),
    )
    mails = None
    if post:
        mails = ReminderMails(database, post, telemetry.reminded, partial(telemetry.reminders_due, "mail"))
    for result in RESULTS:  # else the first of each would be no increase of anything
        telemetry.delivered(result, 0)
    for result, late in product(("put_out", "dropped", *MAIL_RESULTS), (False, True)):
        telemetry.reminded(result, late, 0)
    running: list[Deliverer | Reminders | ReminderMails] = [deliverer, reminders, *([mails] if mails else [])]
    for one in running:
        one.start()
        atexit.register(one.stop)
    return Delivery(deliverer, reminders, mails)
