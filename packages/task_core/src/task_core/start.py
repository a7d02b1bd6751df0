"""How a worker process of a service delivers to webhooks, and puts reminders out."""

import atexit
from typing import NamedTuple

from service_kit.mail import Mailer
from service_kit.outbound import Sender
from task_core import telemetry
from task_core.config import Settings
from task_core.database import Database
from task_core.delivery import RESULTS, Deliverer
from task_core.reminders import Reminders


class Delivery(NamedTuple):
    """Who delivers to webhooks, and who puts reminders out."""

    deliverer: Deliverer
    reminders: Reminders

    def end(self) -> None:
        """Begin nothing more."""
        self.reminders.end()
        self.deliverer.end()


def start_delivery(settings: Settings, database: Database, *, insecure: bool, listens: bool = False) -> Delivery:
    """Start to deliver in threads, which end with the process after what they deliver then. Return who delivers.

    `insecure` is for tests: any address, also without TLS. `listens`: PostgreSQL's notifications wake it.
    """
    post = Mailer(settings.smtp_url, settings.mail_from) if settings.smtp_url else None
    sender = Sender(insecure=insecure)
    deliverer = Deliverer(database, sender, telemetry.delivered, telemetry.undelivered, post=post, listens=listens)
    reminders = Reminders(database, deliverer.wake)
    for result in RESULTS:  # else the first of each would be no increase of anything
        telemetry.delivered(result, 0)
    for one in (deliverer, reminders):
        one.start()
        atexit.register(one.stop)
    return Delivery(deliverer, reminders)
