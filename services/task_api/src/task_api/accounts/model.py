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
    device_token: (
        Annotated[
            str, Meta(max_length=1024, description="of an earlier login: others' wrong guesses do not lock it out")
        ]
        | None
    ) = None

    def __post_init__(self) -> None:
        self.email = self.email.lower()


class Refresh(Struct, forbid_unknown_fields=True):
    """A refresh token, to be exchanged for new tokens."""

    refresh_token: Annotated[str, Meta(max_length=128)]


class Tokens(Struct, frozen=True, kw_only=True):
    """The result of logging in (RFC 6750). `expires_in` is the lifetime of the access token in seconds.

    `device_token` is to be kept after the session, and sent with the next login of the same account from this device.
    """

    access_token: str
    refresh_token: str
    device_token: str
    expires_in: int
    token_type: Literal["Bearer"] = "Bearer"  # the type, not a token


class EmailTaken(Exception):
    """An account has that address already."""

    def __init__(self, email: str) -> None:
        super().__init__(f"there is an account of {email}")


class LoginFailed(Exception):
    """Wrong address or password: the answer does not reveal which."""


class Throttled(Exception):
    """Too many attempts; `retry_after` in seconds."""

    def __init__(self, what: str, retry_after: int) -> None:
        super().__init__(f"too many {what}: try again in {retry_after} seconds")
        self.retry_after = retry_after


class Overloaded(Exception):
    """More passwords are to be checked than the service takes on at once; `retry_after` in seconds."""

    retry_after = 1

    def __init__(self) -> None:
        super().__init__("too many passwords are being checked right now: try again in a second")


class BadToken(Exception):
    """A token that is not valid; `reason` is one of `invalid`, `expired`, `revoked`, `reused`."""

    def __init__(self, reason: Literal["invalid", "expired", "revoked", "reused"]) -> None:
        super().__init__(f"the token is {reason}")
        self.reason = reason
