"""What this service adds around every request: the account and the rate limit."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, cast

from flask import g, request

from service_kit.http import requests
from service_kit.http.openapi import Operation, declared
from service_kit.http.problems import Refusal
from service_kit.http.requests import PROBES
from service_kit.service import NotReady, Service
from service_kit.telemetry.traces import Tracer
from task_api import __version__, telemetry
from task_api.accounts.model import CALENDAR_SCOPE, Account, AnothersToken, BadToken
from task_api.accounts.service import Accounts
from task_api.accounts.throttle import network
from task_api.config import Settings
from task_api.http import cookies
from task_api.http.errors import RATE_LIMITED, ROLE_MISSING, SCOPE_MISSING, TOKEN_MISSING, TOKEN_PROBLEMS, bearer
from task_api.http.rate_limit import RateLimiter, Windows
from task_api.http.streams import Follower
from task_api.store.clearing import Clearer
from task_api.store.pruning import Most
from task_api.store.shared_windows import SharedWindows
from task_api.tasks.quota import Quota
from task_core import telemetry as shared
from task_core.database import Database, SchemaBehind
from task_core.encryption import Keyring
from task_core.errors import UNAVAILABLE, down
from task_core.rates import DatabaseWindows
from task_core.schema import LOCAL_ACCOUNT
from task_core.start import start_delivery, start_reminding

LOCAL = Account(LOCAL_ACCOUNT, "local", "user", datetime.fromtimestamp(0, UTC))
SIGNING_IN = frozenset({"session.sign_in", "session.refresh_session", "session.sign_out"})
"""Endpoints that anybody may request, also with a token that is not valid any more."""

CALENDAR = "calendar.calendar_feed"
"""The endpoint to which a token may come in the address: calendar clients can send no headers."""

CALENDAR_SCOPES = frozenset({CALENDAR_SCOPE})
"""The scopes that such a token has. Addresses are kept and shown in many places: what is in one may do nothing else."""

FILES = ("board.board_file", "board.board_worker")
"""Endpoints that need neither an account nor the database: opening the page takes a score of them."""


class Services(Service):
    """What the handlers of one application work with."""

    name = "task-api"
    title = "Task API"
    version = __version__
    description = "Tasks over HTTP. Errors are problem details (RFC 9457)."
    common_problems: ClassVar[Mapping[int, str]] = {429: "Too many requests", 503: "The database does not answer"}
    settings: Settings

    def __init__(self, settings: Settings, database: Database) -> None:
        super().__init__(settings)
        self.database = database
        self.keyring = Keyring(settings.encryption_keys)
        self.accounts = Accounts(settings, database, telemetry.auth_failed) if settings.auth == "on" else None
        own = settings.auth == "off"  # whoever may reach the service then may fill this disk by other means too
        self.quota = Quota() if own else Quota(settings.quota_tasks, settings.quota_bytes)
        self.limiter = RateLimiter(settings.rate_limit, self._windows()) if settings.rate_limit else None
        self.follower = Follower(database, self.accounts, settings.streams)

    def _windows(self) -> Windows:
        return DatabaseWindows(self.database) if self.settings.postgresql else SharedWindows()

    @property
    def authenticates(self) -> bool:
        return self.accounts is not None

    def check(self) -> None:
        answers = True
        try:
            self.database.check()
        except SchemaBehind as error:
            raise NotReady(str(error)) from error
        except UNAVAILABLE as error:
            answers = not down(error)
            raise
        finally:
            shared.database_answers(self.database.dialect, answers)

    def start_worker(self) -> None:
        self.database.close()
        Clearer(self.database, Most(*self.quota), telemetry.cleared).start()
        if self.settings.webhook_delivery == "workers":
            if self.settings.webhooks != "off":
                insecure = self.settings.webhooks == "insecure"
                start_delivery(self.settings, self.database, insecure=insecure, tracer=self.tracer)
            elif self.settings.smtp_url:
                start_reminding(self.settings, self.database)
        for key in self.settings.jwt_keys[:1]:
            telemetry.signing_key(key.kid)

    def sample(self) -> None:
        shared.sample_pool(self.database.engine.pool)

    def start_tracer(self) -> Tracer:
        tracer = super().start_tracer()
        tracer.watch(self.database.watched())
        self.database.trace(tracer.traceparent)
        return tracer

    def admit(self, context: Any) -> None:
        context.account = context.rate = context.scopes = context.token = None
        endpoint = context.request.endpoint
        if endpoint in PROBES or endpoint in FILES:
            return
        refusal = _identify_by_address(context, self.accounts) or _identify(context, self.accounts)
        if self.limiter:
            _limit(context, self.limiter)
        operation = declared(endpoint)
        if refusal and not (operation and operation.public) and endpoint not in SIGNING_IN:
            raise refusal
        if operation and context.account:
            _authorize(context, operation)

    def log_fields(self, context: Any) -> dict[str, Any]:
        known = context.get("account")
        return {"account": known.id if known else None}

    def headers(self, context: Any) -> list[tuple[str, str]]:
        rate = context.get("rate")
        return rate.headers if rate else []


def services() -> Services:
    """Those of the application that answers now."""
    return cast("Services", requests.service())


def database() -> Database:
    """Return the database of the application that answers now."""
    return services().database


def account() -> Account:
    """Return the account that sends the request. Raises Refusal 401 where there is none."""
    known: Account | None = g.get("account")
    if known is None:
        raise Refusal(
            TOKEN_MISSING, "a token is needed: send Authorization: Bearer with one from /auth/login", bearer()
        )
    return known


def check_account() -> None:
    """Raise Refusal 401 where no account sends the request, before anything of it is looked at; a preflight may."""
    if request.method != "OPTIONS":
        account()


def _identify_by_address(here: Any, accounts: Accounts | None) -> Exception | None:
    """Set the account of a request for the calendar whose address holds a token; return why not, as `_identify`."""
    token = here.request.args.get("token") if here.request.endpoint == CALENDAR else None
    if accounts is None or not token or here.request.headers.get("Authorization"):
        return None
    try:
        authenticated = accounts.authenticate(token)
    except BadToken as error:
        return error
    if authenticated.scopes != CALENDAR_SCOPES:
        return Refusal(
            SCOPE_MISSING,
            "an address may hold a personal token whose one scope is calendar:read, and this one may do more:"
            " end it, as others may have seen the address",
            bearer("insufficient_scope", scope=CALENDAR_SCOPE),
        )
    here.account, here.session_id, here.scopes = authenticated
    here.token = token
    return None


def _identify(here: Any, accounts: Accounts | None) -> Exception | None:
    """Set the request's account; return why not where there is a token that is not valid."""
    if here.account or accounts is None:
        here.account = here.account or LOCAL
        return None
    authorization = here.request.environ.get("HTTP_AUTHORIZATION")
    by_cookie = not authorization
    if not authorization:
        cookie = cookies.read(here.request, cookies.ACCESS)
        if cookie is None:
            return None
        authorization = f"Bearer {cookie}"
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer":
        return Refusal(
            TOKEN_PROBLEMS["invalid"], "the Authorization header has to be: Bearer, a space, and a token", bearer()
        )
    try:
        authenticated = accounts.authenticate(token.strip())
    except BadToken as error:
        return error
    if by_cookie and not cookies.shows(here.request, authenticated.account):
        return AnothersToken()
    here.account, here.session_id, here.scopes = authenticated
    here.token = token.strip()
    return None


def _authorize(here: Any, operation: Operation) -> None:
    """Raise Refusal 403 where the account has not the role, or its personal token not the scopes, that are declared."""
    if operation.roles and here.account.role not in operation.roles:
        raise Refusal(ROLE_MISSING, f"this needs an account with the role {' or '.join(operation.roles)}")
    if here.scopes is None or operation.public:
        return
    if not operation.scopes:
        raise Refusal(SCOPE_MISSING, "a personal token may not do this: log in", bearer("insufficient_scope"))
    if not here.scopes.issuperset(operation.scopes):
        needed = " ".join(operation.scopes)
        raise Refusal(SCOPE_MISSING, f"the token lacks the scope {needed}", bearer("insufficient_scope", scope=needed))


def _limit(here: Any, limiter: RateLimiter) -> None:
    here.rate = limiter.hit(
        f"account:{here.account.id}" if here.account else f"network:{network(here.request.remote_addr or '')}"
    )
    if not here.rate.allowed:
        telemetry.rate_limited()
        wait = str(here.rate.reset)
        raise Refusal(RATE_LIMITED, f"too many requests: try again in {wait} seconds", {"Retry-After": wait})
