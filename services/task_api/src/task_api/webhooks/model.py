"""A webhook and the shapes it comes and goes in."""

from datetime import datetime
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from service_kit.outbound import LONGEST_URL
from task_core.model import Id, Version

Url = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=LONGEST_URL,
        pattern="^[!-~]+$",
        description="an https address of the public internet, without user, password and fragment",
        examples=["https://hooks.example/tasks"],
    ),
]


class NewWebhook(Struct, forbid_unknown_fields=True):
    """Where changes are to be delivered to."""

    url: Url


class WebhookChanges(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The fields to change; those that are left out stay as they are."""

    url: Url | UnsetType = UNSET
    active: bool | UnsetType = UNSET


class Webhook(Struct, frozen=True, kw_only=True):
    """A webhook as the service returns it."""

    id: Id
    url: str
    active: Annotated[bool, Meta(description="whether changes are delivered")]
    disabled_reason: str | None
    created_at: datetime
    failures: Annotated[int, Meta(ge=0, description="failed attempts to deliver the change that is next")]
    last_error: Annotated[str | None, Meta(description="why the last of them failed")]
    next_attempt_at: Annotated[datetime | None, Meta(description="when it is tried again; null without failures")]


class WebhookSecret(Struct, frozen=True):
    """A new secret, which is returned this once."""

    secret: Annotated[str, Meta(description="verifies signatures, as a library for Standard Webhooks takes it")]


class CreatedWebhook(Webhook, frozen=True, kw_only=True):
    """A webhook with its secret, which is returned this once."""

    secret: Annotated[str, Meta(description="verifies signatures, as a library for Standard Webhooks takes it")]


class DeadLetter(Struct, frozen=True, kw_only=True):
    """A change or a reminder that could not be delivered."""

    message_id: Annotated[str, Meta(description="the webhook-id of each attempt")]
    kind: Literal["created", "updated", "deleted", "restored", "reminder"]
    task_id: Id
    version: Version
    changed_at: datetime
    failed_at: datetime
    error: Annotated[str, Meta(description="why the last attempt failed")]
    replayed: Annotated[bool, Meta(description="whether it is about to be sent again")]


class Replay(Struct, frozen=True):
    """How many dead letters are sent again."""

    letters: Annotated[int, Meta(ge=0)]


class WebhookNotFound(Exception):
    """The webhook does not exist, or belongs to another account."""

    def __init__(self, webhook_id: int) -> None:
        super().__init__(f"there is no webhook {webhook_id}")
