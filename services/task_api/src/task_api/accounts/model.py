"""An account and the shapes of logging in."""

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

SHORTEST_PASSWORD = 12
LONGEST_PASSWORD = 128

Email = Annotated[
    str,
    Meta(
        max_length=254,
        pattern=r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)+$(?!\n)",
        description="an address as HTML's input type=email takes it, case aside",
    ),
]
Password = Annotated[
    str,
    Meta(
        min_length=SHORTEST_PASSWORD,
        max_length=LONGEST_PASSWORD,
        pattern=r"^(?!([\s\S])\1*$)",
        description="not one character repeated",
    ),
]
Role = Literal["user", "admin"]


class Account(Struct, frozen=True):
    """Who is asking."""

    id: int
    email: str
    role: Role
    created_at: datetime

    @property
    def scope(self) -> int | None:
        """Whose tasks this account may see: its own, or all (None)."""
        return None if self.role == "admin" else self.id


class Registration(Struct, forbid_unknown_fields=True):
    """What a new account needs."""

    email: Email
    password: Password

    def __post_init__(self) -> None:
        self.email = self.email.lower()


class Login(Struct, forbid_unknown_fields=True):
    """An attempt to log in."""

    email: Annotated[str, Meta(max_length=254, pattern=r"^[^\x00]*$")]  # PostgreSQL cannot be asked for U+0000
    password: Annotated[str, Meta(max_length=1024)]

    def __post_init__(self) -> None:
        self.email = self.email.lower()


class Refresh(Struct, forbid_unknown_fields=True):
    """A refresh token, to be exchanged for new tokens."""

    refresh_token: Annotated[str, Meta(max_length=128)]


class Tokens(Struct, frozen=True):
    """What logging in gives (RFC 6750). `expires_in` is the access token's life in seconds."""

    access_token: str
    refresh_token: str
    expires_in: int
    token_type: Literal["Bearer"] = "Bearer"  # the type, not a token


class EmailTaken(Exception):
    """There is an account of that address."""


class LoginFailed(Exception):
    """Wrong address or password: the two are not told apart."""


class Throttled(Exception):
    """Too many failed logins; `retry_after` in seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"too many failed logins: try again in {retry_after} seconds")
        self.retry_after = retry_after


class BadToken(Exception):
    """A token that is worth nothing; `reason` is one of `invalid`, `expired`, `revoked`, `reused`."""

    def __init__(self, reason: Literal["invalid", "expired", "revoked", "reused"]) -> None:
        super().__init__(f"the token is {reason}")
        self.reason = reason
