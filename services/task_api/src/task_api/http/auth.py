"""/auth, where accounts are on."""

from flask import Blueprint, Response, g, request

from service_kit.http.messages import body, respond
from service_kit.http.openapi import Answers, documented
from service_kit.http.problems import Refusal
from task_api.accounts.model import Account, Login, Refresh, Registration, Tokens
from task_api.accounts.service import Accounts
from task_api.http.context import account, services
from task_api.http.errors import REGISTRATION_CLOSED

blueprint = Blueprint("auth", __name__, url_prefix="/auth")


def _accounts() -> Accounts:
    accounts = services().accounts
    assert accounts is not None  # these routes exist only with accounts on
    return accounts


@blueprint.post("/register")
@documented(json=Registration, answers=Answers(created=Account, problems=(400, 403, 409, 413, 415, 429)), public=True)
def register_account() -> Response:
    """Create an account."""
    if services().settings.registration == "closed":
        raise Refusal(REGISTRATION_CLOSED, "registration is closed: ask an administrator for an account")
    created = _accounts().register(body(Registration), request.remote_addr or "")
    return respond(created, 201, {"Location": "/auth/me"})


@blueprint.post("/login")
@documented(json=Login, answers=Answers(ok=Tokens, problems=(400, 401, 413, 415, 429)), public=True)
def login() -> Response:
    """Log in."""
    return respond(_accounts().login(body(Login), request.remote_addr or ""))


@blueprint.post("/refresh")
@documented(json=Refresh, answers=Answers(ok=Tokens, problems=(400, 401, 413, 415)), public=True)
def refresh() -> Response:
    """Exchange a refresh token for new tokens.

    Each is valid for one exchange. Using one again ends the session: whoever else held it loses access too.
    """
    return respond(_accounts().refresh(body(Refresh).refresh_token))


@blueprint.post("/logout")
@documented(answers=Answers(no_content=True))
def logout() -> Response:
    """Log out: no token of this session is valid from now on."""
    account()
    _accounts().logout(g.session_id)
    return Response(status=204)


@blueprint.get("/me")
@documented(answers=Answers(ok=Account))
def me() -> Response:
    """Return the account that the token belongs to."""
    return respond(account())
