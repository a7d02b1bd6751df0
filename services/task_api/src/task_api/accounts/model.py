"""An account and the shapes of logging in."""

from datetime import datetime
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from service_kit.mail import ENCODED_WORD
from task_api.accounts.password_policy import check_password

SHORTEST_PASSWORD = 12
LONGEST_PASSWORD = 128

Email = Annotated[
    str,
    Meta(
        max_length=254,
        pattern=r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*(?:\.[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*)+$(?!\n)",
        description="an address as HTML's input type=email takes it, case aside; its parts may have any length",
    ),
]
Password = Annotated[
    str,
    Meta(
        min_length=SHORTEST_PASSWORD,
        max_length=LONGEST_PASSWORD,
        pattern=r"^(?!([\s\S])\1*$(?!\n))",
        description="not one character repeated",
    ),
]
Role = Literal["user", "admin"]


def kept(email: str) -> str:
    """Return an address in small letters, as it is kept. Raises ValueError for one that may stand for another.

    That is one with an encoded word (RFC 2047), which who sends mail may decode.
    """
    if ENCODED_WORD in email:
        raise ValueError(f"an address without {ENCODED_WORD} is expected")
    return email.lower()


class Account(Struct, frozen=True):
    """Who the caller is."""

    id: int
    email: str
    role: Role
    created_at: datetime
    verified_at: Annotated[
        datetime | None,
        Meta(description="when a token from a mail to the address came back; null: no mail is sent to it"),
    ] = None

    @property
    def scope(self) -> int | None:
        """Whose tasks this account may see: its own, or all (None)."""
        return None if self.role == "admin" else self.id


TaskScope = Literal["tasks:read", "tasks:write"]
CALENDAR_SCOPE = "calendar:read"
Scope = Literal["calendar:read", "tasks:read", "tasks:write"]
SentPassword = Annotated[str, Meta(max_length=1024)]
"""A password as somebody who logs in sends it: only its hash decides, not today's rules for new ones."""


Failure = Literal["invalid", "expired", "revoked", "reused", "bad_credentials", "throttled", "overloaded"]
"""Why somebody was not let in, as the metrics count it."""

Code = Annotated[
    str,
    Meta(
        min_length=6,
        max_length=32,
        pattern=r"^[0-9A-Za-z -]*$(?!\n)",
        description="six digits from the authenticator, or a recovery code; spaces and dashes do not count",
    ),
]


class Registration(Struct, forbid_unknown_fields=True):
    """What a new account needs."""

    email: Email
    password: Password

    def __post_init__(self) -> None:
        self.email = kept(self.email)
        check_password(self.password, self.email)


class Login(Struct, forbid_unknown_fields=True):
    """An attempt to log in."""

    email: Annotated[str, Meta(max_length=254, pattern=r"^[^\x00]*$")]  # PostgreSQL accepts no U+0000
    password: SentPassword
    device_token: (
        Annotated[
            str, Meta(max_length=1024, description="of an earlier login: others' wrong guesses do not lock it out")
        ]
        | None
    ) = None
    code: Code | None = None

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


class Address(Struct, forbid_unknown_fields=True):
    """An address to send mail to."""

    email: Email

    def __post_init__(self) -> None:
        self.email = kept(self.email)


class MailToken(Struct, forbid_unknown_fields=True):
    """The token from a mail."""

    token: Annotated[str, Meta(max_length=128)]


class TokenAndPassword(Struct, forbid_unknown_fields=True):
    """The token from a mail, and the password to log in with from now on."""

    token: Annotated[str, Meta(max_length=128)]
    password: Password


class Proof(Struct, forbid_unknown_fields=True):
    """The account's password, which confirms that the caller is its owner."""

    password: SentPassword


class ProofAndCode(Struct, forbid_unknown_fields=True):
    """The account's password and a code of its second factor, which confirm that the caller is its owner."""

    password: SentPassword
    code: Code


class Confirmation(Struct, forbid_unknown_fields=True):
    """The first code of an authenticator that was enrolled."""

    code: Code


class Enrolment(Struct, frozen=True, kw_only=True):
    """What an authenticator needs, once as text (Base32) and once for a QR code (`otpauth://`). It is not on yet."""

    secret: str
    uri: str


class RecoveryCodes(Struct, frozen=True, kw_only=True):
    """Codes that replace those of the authenticator, once each. They are returned this once."""

    recovery_codes: list[str]


class SecondFactor(Struct, frozen=True, kw_only=True):
    """Whether logging in needs a code, and how many recovery codes are left."""

    enabled: bool
    recovery_codes: int


class PasswordChange(Struct, forbid_unknown_fields=True):
    """The account's password and the one that replaces it."""

    password: SentPassword
    new_password: Password


class Session(Struct, frozen=True, kw_only=True):
    """A session: where it began, when it was last refreshed, and when it ends unless it is refreshed again."""

    id: str
    current: bool
    created_at: datetime
    refreshed_at: datetime | None
    expires_at: datetime
    user_agent: str | None
    address: str | None


class NewPersonalToken(Struct, forbid_unknown_fields=True):
    """What a personal token is for, what it may do, and for how many days."""

    name: Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[^\x00]*$")]
    scopes: Annotated[list[Scope], Meta(min_length=1, max_length=3)]
    days: Annotated[int, Meta(ge=1, le=365)]

    def __post_init__(self) -> None:
        self.scopes = sorted(set(self.scopes))


class PersonalToken(Struct, frozen=True, kw_only=True):
    """A personal token without the token itself, which is not stored."""

    id: int
    name: str
    scopes: Annotated[list[TaskScope], Meta(description="those of tasks: all that clients of the first version know")]
    calendar: Annotated[bool, Meta(description="whether it has the scope `calendar:read`")]
    created_at: datetime
    expires_at: datetime


class CreatedPersonalToken(PersonalToken, frozen=True, kw_only=True):
    """A personal token with the token itself, which is returned this once."""

    token: str


class ManagedAccount(Struct, frozen=True, kw_only=True):
    """An account as administrators see it."""

    id: int
    email: str
    role: Role
    created_at: datetime
    disabled: bool
    second_factor: bool


class AccountChanges(Struct, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What an administrator changes about an account; what is left out stays as it is."""

    role: Role | UnsetType = UNSET
    disabled: bool | UnsetType = UNSET


class AuditEntry(Struct, frozen=True, kw_only=True):
    """What was done to an account. `actor` is `account 3`, or `command line` for an operator."""

    id: int
    at: datetime
    actor: str
    action: str
    account_id: int
    details: str


class AccountNotFound(Exception):
    """No account has that id or address."""


class SessionNotFound(Exception):
    """The account has no such session."""

    def __init__(self) -> None:
        super().__init__("there is no such session")


class PersonalTokenNotFound(Exception):
    """The account has no such token."""

    def __init__(self) -> None:
        super().__init__("there is no such token")


class BadMailToken(Exception):
    """A token from a mail is not valid: unknown, expired, used, or replaced by what came after it."""

    def __init__(self) -> None:
        super().__init__("the token is not valid, or not any more: have a new one sent")


class BadPassword(Exception):
    """A new password is guessed easily, for the reason in the message."""


class WrongPassword(Exception):
    """Somebody who is logged in did not confirm a change with the account's password."""

    def __init__(self) -> None:
        super().__init__("the password is wrong")


class SecondFactorNeeded(Exception):
    """The password is right, and logging in needs a code of the second factor too."""

    def __init__(self) -> None:
        super().__init__("a code of the second factor is needed")


class WrongCode(Exception):
    """A code of the second factor is not valid: wrong, too old, or used before; or no code can be checked."""

    def __init__(self, detail: str = "the code is wrong, too old, or was used before") -> None:
        super().__init__(detail)


class NotAllowed(Exception):
    """An administrator may not do that, for the reason in the message."""


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


class AnothersToken(Exception):
    """A valid token of another account than the request is about."""

    def __init__(self) -> None:
        super().__init__("the session is of another account than the page shows")


class BadToken(Exception):
    """A token that is not valid; `reason` is one of `invalid`, `expired`, `revoked`, `reused`."""

    def __init__(self, reason: Literal["invalid", "expired", "revoked", "reused"]) -> None:
        super().__init__(f"the token is {reason}")
        self.reason = reason
