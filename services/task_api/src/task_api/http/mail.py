"""/auth where mail is configured: registering, confirming and resetting a password by tokens sent to the address."""

from flask import Blueprint, Response

from service_kit.http.messages import body, respond
from service_kit.http.openapi import Answers, documented
from task_api.accounts.model import Account, Address, MailToken, TokenAndPassword
from task_api.http.auth import accounts, address, check_open
from task_api.http.context import account

blueprint = Blueprint("mail", __name__, url_prefix="/auth")


@blueprint.post("/register")
@documented(json=Address, answers=Answers(no_content=True, problems=(400, 403, 413, 415, 429)), public=True, tag="auth")
def register_address() -> Response:
    """Send a token to the address, for `POST /auth/verify`. The answer is the same where it has an account."""
    check_open()
    accounts().register_address(body(Address).email, address())
    return Response(status=204)


@blueprint.post("/verify")
@documented(
    json=TokenAndPassword,
    answers=Answers(created=Account, problems=(400, 403, 409, 413, 415)),
    public=True,
    tag="auth",
)
def verify_address() -> Response:
    """Create the account of the address that the token was sent to, with this password."""
    check_open()
    created = accounts().by_mail.verify(body(TokenAndPassword))
    return respond(created, 201, {"Location": "/auth/me"})


@blueprint.post("/password/forgot")
@documented(json=Address, answers=Answers(no_content=True, problems=(400, 413, 415, 429)), public=True, tag="auth")
def forgot_password() -> Response:
    """Send a token to the address, for `POST /auth/password/reset`. The answer is the same where it has no account."""
    accounts().forgot_password(body(Address).email, address())
    return Response(status=204)


@blueprint.post("/password/reset")
@documented(json=TokenAndPassword, answers=Answers(no_content=True, problems=(400, 413, 415)), public=True, tag="auth")
def reset_password() -> Response:
    """Replace the password. All sessions and personal tokens of the account end; its webhooks are switched off."""
    accounts().reset_password(body(TokenAndPassword))
    return Response(status=204)


@blueprint.post("/me/confirm")
@documented(answers=Answers(no_content=True, problems=(429,)), tag="auth")
def request_confirmation() -> Response:
    """Send a token to the account's address, for `POST /auth/confirm`: reminders are mailed to confirmed addresses."""
    accounts().request_confirmation(account(), address())
    return Response(status=204)


@blueprint.post("/confirm")
@documented(json=MailToken, answers=Answers(no_content=True, problems=(400, 413, 415)), public=True, tag="auth")
def confirm_address() -> Response:
    """Confirm the address that the token was sent to. Registering and resetting a password by mail do so too."""
    accounts().confirm_address(body(MailToken).token)
    return Response(status=204)
