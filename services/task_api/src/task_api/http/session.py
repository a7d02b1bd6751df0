"""/session, where accounts are on: the page's own way to sign in and out. Its tokens are cookies."""

from contextlib import suppress

from flask import Blueprint, Response, g, request

from service_kit.http.messages import body, respond
from service_kit.http.problems import Refusal
from task_api.accounts.model import BadToken, Login
from task_api.accounts.service import Origin
from task_api.http import cookies
from task_api.http.auth import accounts, address
from task_api.http.context import services
from task_api.http.errors import ANSWERS, NOT_THE_PAGE

blueprint = Blueprint("session", __name__, url_prefix=cookies.SESSION)


@blueprint.before_request
def _check_page() -> None:
    """Raise Refusal 403 where another page than the service's own may have sent the request."""
    if not cookies.sent_by_page(request):
        raise Refusal(NOT_THE_PAGE, "only the page at / uses this path: programs log in at /auth/login")


@blueprint.post("")
def sign_in() -> Response:
    """Begin a session, as `POST /auth/login` does, and return its account."""
    login = body(Login)
    login.device_token = cookies.read(request, cookies.DEVICE)
    tokens = accounts().login(login, Origin(address(), request.headers.get("User-Agent")))
    response = respond(accounts().authenticate(tokens.access_token).account)
    cookies.keep(request, response, tokens, services().settings.refresh_token_seconds)
    return response


@blueprint.post("/refresh")
def refresh_session() -> Response:
    """Exchange the refresh token of the account that the page shows. Where it is not valid, the cookies are deleted."""
    try:
        tokens = accounts().refresh(cookies.read(request, cookies.REFRESH) or "", cookies.shown_account(request))
    except BadToken as error:
        response = ANSWERS[BadToken](error)
        cookies.clear(request, response)
        return response
    response = Response(status=204)
    cookies.keep(request, response, tokens, services().settings.refresh_token_seconds)
    return response


@blueprint.delete("")
def sign_out() -> Response:
    """End the session, also where its access token has expired, and delete its cookies."""
    session_id = g.get("session_id")
    if session_id is None and (token := cookies.read(request, cookies.REFRESH)):
        with suppress(BadToken):
            session_id = accounts().authenticate(accounts().refresh(token).access_token).session_id
    if session_id is not None:
        accounts().logout(session_id)
    response = Response(status=204)
    cookies.clear(request, response)
    return response
