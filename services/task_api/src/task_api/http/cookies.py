"""The cookies that the page at / signs in with: no script can read them, and no other site can use them.

The API takes bearer tokens. An access token in a cookie counts only where the request shows that the page itself sent
it: by a header of its own, which no form and no other origin can add (a CORS preflight refuses that), and by what
browsers send about the request's origin (OWASP's CSRF Prevention Cheat Sheet). Any other cookie is ignored.
"""

from urllib.parse import urlsplit

import msgspec
from flask import Request, Response

from task_api.accounts.model import Account, Tokens
from task_api.accounts.tokens import DEVICE_SECONDS

ACCESS, REFRESH, DEVICE = "task_api_access", "task_api_refresh", "task_api_device"
HEADER, PAGE = "X-Requested-With", "board"
ACCOUNT = "X-Account"
"""The header with the account whose tasks the page shows: another may have signed in since, in another tab."""
CREATED = "X-Account-Created"
"""The header with that account's `created_at`: where the database has been replaced, another may have its id."""

SESSION = "/session"
"""The path that has the refresh token: no other request carries it."""
PATHS = {ACCESS: "/", REFRESH: SESSION, DEVICE: SESSION}


def sent_by_page(request: Request) -> bool:
    """Return whether the page sent the request, as far as its headers show."""
    headers = request.headers
    return (
        headers.get(HEADER) == PAGE
        and headers.get("Sec-Fetch-Site", "same-origin") == "same-origin"
        and urlsplit(headers.get("Origin", request.host_url)).netloc == request.host  # a proxy may end TLS: no scheme
    )


def shown_account(request: Request) -> str | None:
    """Return the id of the account that the page shows, where it names one."""
    return request.headers.get(ACCOUNT)


def shows(request: Request, account: Account) -> bool:
    """Return whether the page shows this account, as far as it names one."""
    created = request.headers.get(CREATED)
    return shown_account(request) in (None, str(account.id)) and (
        created is None or created == msgspec.to_builtins(account.created_at)
    )


def _name(request: Request, name: str) -> str:
    """Return the name under which browsers refuse the cookie from plain HTTP, where the service is on HTTPS.

    The access token's they refuse from other hosts of the same domain too, which could sign people in as somebody else.
    """
    if not request.is_secure:
        return name
    return f"__Host-{name}" if PATHS[name] == "/" else f"__Secure-{name}"


def read(request: Request, name: str) -> str | None:
    """Return a cookie's value where the page sent the request."""
    return request.cookies.get(_name(request, name)) if sent_by_page(request) else None


def keep(request: Request, response: Response, tokens: Tokens, refresh_seconds: int) -> None:
    """Set the cookies of a session."""
    values = {
        ACCESS: (tokens.access_token, tokens.expires_in),
        REFRESH: (tokens.refresh_token, refresh_seconds),
        DEVICE: (tokens.device_token, DEVICE_SECONDS),
    }
    for name, (value, seconds) in values.items():
        response.set_cookie(
            _name(request, name),
            value,
            max_age=seconds,
            path=PATHS[name],
            secure=request.is_secure,
            httponly=True,
            samesite="Strict",
        )


def clear(request: Request, response: Response) -> None:
    """Delete the cookies of a session. The device's stays: it spares its owner others' wrong guesses."""
    for name in (ACCESS, REFRESH):
        response.delete_cookie(
            _name(request, name), path=PATHS[name], secure=request.is_secure, httponly=True, samesite="Strict"
        )
