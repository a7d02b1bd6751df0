"""/auth, where accounts are on."""

from flask import Blueprint, Response, g, request

from service_kit.http.messages import body, respond
from service_kit.http.openapi import Answers, Link, documented
from service_kit.http.problems import Refusal
from task_api.accounts.model import (
    Account,
    CreatedPersonalToken,
    Login,
    NewPersonalToken,
    PasswordChange,
    PersonalToken,
    Proof,
    Refresh,
    Registration,
    Session,
    Tokens,
)
from task_api.accounts.personal_data import lines
from task_api.accounts.service import Accounts, Origin
from task_api.http.context import account, database, services
from task_api.http.errors import REGISTRATION_CLOSED

blueprint = Blueprint("auth", __name__, url_prefix="/auth")
registration = Blueprint("registration", __name__, url_prefix="/auth")
"""Registering where no mail is configured: `mail` has the other way."""
REGISTERED = Answers(
    created=Account,
    problems=(400, 403, 409, 413, 415, 429),
    links=(Link("change_account", {"account_id": "$response.body#/id"}),),
)
TOKEN_CREATED = Answers(
    created=CreatedPersonalToken,
    problems=(400, 409, 413, 415),
    links=(Link("delete_personal_token", {"token_id": "$response.body#/id"}),),
)
REFRESHES = (Link("refresh", body={"refresh_token": "$response.body#/refresh_token"}),)
LOGGED_IN = Answers(ok=Tokens, problems=(400, 401, 403, 413, 415, 429), links=REFRESHES)


def accounts() -> Accounts:
    """Return the accounts of the application that answers now."""
    service = services().accounts
    assert service is not None  # these routes exist only with accounts on
    return service


def check_open() -> None:
    """Raise Refusal where nobody may register."""
    if services().settings.registration == "closed":
        raise Refusal(REGISTRATION_CLOSED, "registration is closed: ask an administrator for an account")


@registration.post("/register")
@documented(json=Registration, answers=REGISTERED, public=True)
def register_account() -> Response:
    """Create an account."""
    check_open()
    created = accounts().register(body(Registration), address())
    return respond(created, 201, {"Location": "/auth/me"})


def address() -> str:
    """Return the network address of whoever sends the request."""
    return request.remote_addr or ""


@blueprint.post("/login")
@documented(json=Login, answers=LOGGED_IN, public=True)
def login() -> Response:
    """Log in.

    Where the second factor of the account is on, `code` is needed too; without it: `second-factor-needed`.
    """
    origin = Origin(address(), request.headers.get("User-Agent"))
    return respond(accounts().login(body(Login), origin))


@blueprint.post("/refresh")
@documented(json=Refresh, answers=Answers(ok=Tokens, problems=(400, 401, 413, 415), links=REFRESHES), public=True)
def refresh() -> Response:
    """Exchange a refresh token for new tokens.

    Each is valid for one exchange. Using one again ends the session: whoever else held it loses access too.
    """
    return respond(accounts().refresh(body(Refresh).refresh_token))


@blueprint.post("/logout")
@documented(answers=Answers(no_content=True))
def logout() -> Response:
    """Log out: no token of this session is valid from now on."""
    account()
    accounts().logout(g.session_id)
    return Response(status=204)


@blueprint.get("/me")
@documented(answers=Answers(ok=Account), scopes=("tasks:read",))
def me() -> Response:
    """Return the account that the token belongs to."""
    return respond(account())


@blueprint.post("/me/delete")
@documented(json=Proof, answers=Answers(no_content=True, problems=(400, 403, 409, 413, 415)))
def delete_account() -> Response:
    """Delete the account with its tasks, for good. `GET /auth/me/export` returns them before."""
    who = account()
    accounts().delete(who, body(Proof), address())
    return Response(status=204)


@blueprint.get("/me/export")
@documented(answers=Answers(text=True, media="application/x-ndjson"))
def export_account() -> Response:
    """Return all that is stored about the account, one JSON object a line; the last line counts the others."""
    headers = {"Content-Disposition": 'attachment; filename="task-api.jsonl"'}
    return Response(lines(database(), account()), headers=headers, content_type="application/x-ndjson")


@blueprint.post("/password")
@documented(json=PasswordChange, answers=Answers(no_content=True, problems=(400, 403, 413, 415)))
def change_password() -> Response:
    """Change the password. All other sessions of the account end; its webhooks are switched off."""
    who = account()
    accounts().change_password(who, g.session_id, body(PasswordChange), address())
    return Response(status=204)


@blueprint.get("/sessions")
@documented(answers=Answers(ok=list[Session], links=(Link("end_session", {"session_id": "$response.body#/0/id"}),)))
def list_sessions() -> Response:
    """List the account's sessions, the newest first."""
    return respond(accounts().sessions(account(), g.session_id))


@blueprint.delete("/sessions")
@documented(answers=Answers(no_content=True))
def end_sessions() -> Response:
    """Log out everywhere: all sessions of the account end, this one too."""
    accounts().end_sessions(account())
    return Response(status=204)


@blueprint.delete("/sessions/<string:session_id>")
@documented(answers=Answers(no_content=True, problems=(404,)), path={"session_id": "the session's id"}, personal=True)
def end_session(session_id: str) -> Response:
    """End one session of the account."""
    accounts().end_session(account(), session_id)
    return Response(status=204)


@blueprint.post("/tokens")
@documented(json=NewPersonalToken, answers=TOKEN_CREATED)
def create_personal_token() -> Response:
    """Create a personal token for a program: it may do what its scopes allow until its end. It is shown only once."""
    who = account()
    created = accounts().create_personal_token(who, g.session_id, body(NewPersonalToken))
    return respond(created, 201, {"Location": "/auth/tokens"})


@blueprint.get("/tokens")
@documented(answers=Answers(ok=list[PersonalToken]))
def list_personal_tokens() -> Response:
    """List the account's personal tokens."""
    return respond(accounts().personal_tokens(account()))


@blueprint.delete("/tokens/<int:token_id>")
@documented(answers=Answers(no_content=True, problems=(404,)), path={"token_id": "the token's id"}, personal=True)
def delete_personal_token(token_id: int) -> Response:
    """Delete a personal token: it is not valid from now on."""
    accounts().remove_personal_token(account(), token_id)
    return Response(status=204)
