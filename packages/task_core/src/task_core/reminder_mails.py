"""Sends reminders that went out by mail, each at least once, by any number of replicas.

Who sends one holds it in a short transaction, holds none while it sends, and deletes it then. A process that is killed
in between leaves it to be sent again later, with the same Message-ID.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from smtplib import SMTPException
from typing import Any

from sqlalchemy import Connection, Row, and_, delete, exists, func, select, update

from service_kit.mail import Mailer
from service_kit.telemetry.logs import log
from task_core.database import Database
from task_core.delivery import delay
from task_core.reminder import is_late
from task_core.reminders import Poller, Sampler
from task_core.schema import accounts, reminder_mails, tasks

HELD = timedelta(seconds=120)
"""Longer than the conversation with a server of mail takes."""

GIVE_UP = timedelta(days=1)
RESULTS = ("mailed", "mail_failed", "mail_dead", "mail_dropped")
"""Of an attempt that succeeded or not, of one that was the last, of a mail whose task is done with or account gone."""

TEXT = """\
{title}

{due}{late}The task has the number {id}.
"""

_mails = reminder_mails.c


def hold(connection: Connection, now: datetime) -> Row[Any] | None:
    """Return the mail that is due first and that nobody else holds, with what it is about; None where none is."""
    due = select(_mails.id).where(_mails.next_attempt_at <= now).order_by(_mails.next_attempt_at).limit(1)
    found = connection.scalar(due.with_for_update(skip_locked=True))
    if found is None:
        return None
    connection.execute(update(reminder_mails).where(_mails.id == found).values(next_attempt_at=now + HELD))
    task = (tasks.c.title, tasks.c.status, tasks.c.due_at)
    owner = (accounts.c.email, accounts.c.disabled_at, accounts.c.verified_at)
    own = and_(tasks.c.id == _mails.task_id, tasks.c.owner_id == _mails.owner_id)  # as the feed does
    joined = reminder_mails.outerjoin(tasks, own)
    joined = joined.outerjoin(accounts, accounts.c.id == _mails.owner_id)
    return connection.execute(select(reminder_mails, *task, *owner).select_from(joined).where(_mails.id == found)).one()


def oldest(connection: Connection) -> datetime | None:
    """Return when the oldest reminder went out that is not mailed yet."""
    found: datetime | None = connection.scalar(select(func.min(_mails.put_out_at)))
    return found


class ReminderMails(Poller):
    """Sends mails in a thread of its own.

    `report` is called with each of RESULTS, and whether the reminder is late; `sample` with the seconds for which the
    oldest has waited.
    """

    def __init__(
        self,
        database: Database,
        mailer: Mailer,
        report: Callable[[str, bool], None] = lambda _result, _late: None,
        sample: Callable[[float], None] = lambda _: None,
    ) -> None:
        sampler = Sampler(database, oldest, sample)
        super().__init__("reminder-mails", self.send, sampler, "reminders could not be mailed")
        self._database, self._mailer, self._report = database, mailer, report

    def send(self) -> bool:
        """Send the mail that is due first; return False where none is. Raises one of UNAVAILABLE."""
        now = datetime.now(UTC)
        with self._database.peek() as connection:
            if not connection.scalar(select(exists().where(_mails.next_attempt_at <= now))):
                return False
        with self._database.write() as connection:
            mail = hold(connection, now)
        if mail is not None:
            result = self._send(mail)
            self._settle(mail, result)
            self._report(result, is_late(mail.remind_at, mail.put_out_at))
        return mail is not None

    def _send(self, mail: Row[Any]) -> str:
        """Return what became of an attempt, one of RESULTS."""
        gone = mail.verified_at is None or mail.disabled_at is not None  # the version before mails to any address
        if gone or mail.status in {None, "completed"}:
            return "mail_dropped"
        late = is_late(mail.remind_at, mail.put_out_at)
        subject = f"{'Late reminder' if late else 'Reminder'}: {' '.join(mail.title.split())}"
        text = TEXT.format(
            title=mail.title,
            due=f"Due: {_shown(mail.due_at)}.\n" if mail.due_at else "",
            late=f"This reminder was set for {_shown(mail.remind_at)}, and is late.\n" if late else "",
            id=mail.task_id,
        )
        try:
            self._mailer.deliver(mail.email, subject, text, f"reminder-{mail.id}-{mail.remind_at.timestamp():.0f}")
        except (OSError, SMTPException, ValueError) as error:
            dead = datetime.now(UTC) - mail.put_out_at > GIVE_UP
            log.error("a reminder was not mailed", error=type(error).__name__, tried_again=not dead)
            return "mail_dead" if dead else "mail_failed"
        return "mailed"

    def _settle(self, mail: Row[Any], result: str) -> None:
        """Delete a mail that is done with, or have it tried again later."""
        this = _mails.id == mail.id
        with self._database.write() as connection:
            if result == "mail_failed":
                later = datetime.now(UTC) + timedelta(seconds=delay(mail.failures))
                values = {"failures": mail.failures + 1, "next_attempt_at": later}
                connection.execute(update(reminder_mails).where(this).values(**values))
            else:
                connection.execute(delete(reminder_mails).where(this))


def _shown(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
