"""How a worker process of a service delivers to webhooks."""

import atexit

from service_kit.mail import Mailer
from service_kit.outbound import Sender
from service_kit.telemetry.traces import Tracer
from task_core import telemetry
from task_core.config import Settings
from task_core.database import Database
from task_core.delivery import RESULTS, Deliverer
from task_core.encryption import Keyring


def start_delivery(
    settings: Settings, database: Database, *, insecure: bool, tracer: Tracer | None, listens: bool = False
) -> Deliverer:
    """Start to deliver in threads, which end with the process after what they deliver then. Return who delivers.

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
    return deliverer
