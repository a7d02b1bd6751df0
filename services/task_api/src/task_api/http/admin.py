"""/admin, where accounts are on: what administrators do to other accounts."""

from typing import Annotated

import msgspec
from flask import Blueprint, Response
from msgspec import Meta

from service_kit.http.messages import body, query, respond
from service_kit.http.openapi import Answers, documented
from task_api.accounts import administration
from task_api.accounts.model import AccountChanges, AuditEntry, ManagedAccount
from task_api.http.auth import accounts
from task_api.http.context import account, database
from task_api.tasks.model import LARGEST_ID

blueprint = Blueprint("admin", __name__, url_prefix="/admin")
ADMIN = ("admin",)
Limit = Annotated[int, Meta(ge=1, le=200)]
Key = Annotated[int, Meta(ge=0, le=LARGEST_ID)]


class AccountQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A page of accounts: the first, or what follows the account `after`."""

    after: Key = 0
    limit: Limit = 50


class AuditQuery(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A page of the audit log: the newest, or what came before the entry `before`; of one account, or of all."""

    before: Key | None = None
    account_id: Key | None = None
    limit: Limit = 50


@blueprint.get("/accounts")
@documented(query=AccountQuery, answers=Answers(ok=list[ManagedAccount], problems=(400,)), roles=ADMIN)
def list_accounts() -> Response:
    """List accounts in the order of their ids."""
    account()
    wanted = query(AccountQuery)
    return respond(administration.page(database(), wanted.after, wanted.limit))


@blueprint.patch("/accounts/<int:account_id>")
@documented(
    json=AccountChanges,
    answers=Answers(ok=ManagedAccount, problems=(400, 404, 409, 413, 415)),
    path={"account_id": "the account's id"},
    roles=ADMIN,
)
def change_account(account_id: int) -> Response:
    """Disable or enable an account, or change its role. A disabled one cannot log in; its sessions and tokens end."""
    admin = account()
    return respond(accounts().administer(admin, account_id, body(AccountChanges)))


@blueprint.get("/audit")
@documented(query=AuditQuery, answers=Answers(ok=list[AuditEntry], problems=(400,)), roles=ADMIN)
def list_audit() -> Response:
    """List what was done to accounts, the newest first."""
    account()
    wanted = query(AuditQuery)
    return respond(administration.entries(database(), wanted.before, wanted.limit, wanted.account_id))
