"""The routes under /webhooks: each account has its own, also an administrator."""

from flask import Blueprint, Response, g

from service_kit.http.messages import body, respond
from service_kit.http.openapi import Answers, Link, documented
from task_api.http.context import account, check_account, database, services
from task_api.webhooks import service
from task_api.webhooks.model import (
    CreatedWebhook,
    DeadLetter,
    NewWebhook,
    Replay,
    Webhook,
    WebhookChanges,
    WebhookSecret,
)

blueprint = Blueprint("webhooks", __name__, url_prefix="/webhooks")
ONE = "/<int:webhook_id>"
WEBHOOK_ID = {"webhook_id": "the webhook's id"}
LINKS = tuple(
    Link(name, {"webhook_id": "$response.body#/id"})
    for name in ("get_webhook", "change_webhook", "delete_webhook", "rotate_secret", "list_dead_letters", "replay")
)

blueprint.before_request(check_account)


def _insecure() -> bool:
    return services().settings.webhooks == "insecure"


@blueprint.get("")
@documented(answers=Answers(ok=list[Webhook]), personal=True)
def list_webhooks() -> Response:
    """List one's webhooks."""
    with database().read() as connection:
        return respond(service.every(connection, account().id))


@blueprint.post("")
@documented(
    json=NewWebhook,
    answers=Answers(created=CreatedWebhook, problems=(400, 409, 413, 415, 422), links=LINKS),
    personal=True,
)
def create_webhook() -> Response:
    """Have the changes of one's own tasks delivered, from now on. The secret is returned this once.

    Each is a POST by the convention Standard Webhooks, at least once and in order; any status from 200 to 299 takes it.
    """
    created = service.create(
        database(),
        services().keyring,
        account().id,
        body(NewWebhook).url,
        insecure=_insecure(),
        most=services().settings.quota_webhooks,
        session_id=g.get("session_id"),
    )
    return respond(created, 201, {"Location": f"/webhooks/{created.id}"})


@blueprint.get(ONE)
@documented(answers=Answers(ok=Webhook, problems=(404,)), path=WEBHOOK_ID, personal=True)
def get_webhook(webhook_id: int) -> Response:
    """Get a webhook: whether it is active, and what failed."""
    with database().read() as connection:
        return respond(service.get(connection, account().id, webhook_id))


@blueprint.patch(ONE)
@documented(
    json=WebhookChanges,
    answers=Answers(ok=Webhook, problems=(400, 404, 413, 415, 422)),
    path=WEBHOOK_ID,
    personal=True,
)
def change_webhook(webhook_id: int) -> Response:
    """Change a webhook's address, or switch it off and on; one that is switched on is tried at once."""
    wanted = body(WebhookChanges)
    session_id = g.get("session_id")
    return respond(
        service.change(database(), account().id, webhook_id, wanted, insecure=_insecure(), session_id=session_id)
    )


@blueprint.delete(ONE)
@documented(answers=Answers(no_content=True, problems=(404,)), path=WEBHOOK_ID, personal=True)
def delete_webhook(webhook_id: int) -> Response:
    """Delete a webhook with its dead letters."""
    service.remove(database(), account().id, webhook_id)
    return Response(status=204)


@blueprint.post(f"{ONE}/rotate-secret")
@documented(answers=Answers(ok=WebhookSecret, problems=(404,)), path=WEBHOOK_ID, personal=True)
def rotate_secret(webhook_id: int) -> Response:
    """Replace a webhook's secret. It is returned this once; for a day the one before signs too."""
    keyring, session_id = services().keyring, g.get("session_id")
    return respond(WebhookSecret(service.rotate_secret(database(), keyring, account().id, webhook_id, session_id)))


@blueprint.get(f"{ONE}/dead-letters")
@documented(answers=Answers(ok=list[DeadLetter], problems=(404,)), path=WEBHOOK_ID, personal=True)
def list_dead_letters(webhook_id: int) -> Response:
    """List the changes that could not be delivered, the oldest first; the last 1000 are kept."""
    with database().read() as connection:
        return respond(service.dead_letters(connection, account().id, webhook_id))


@blueprint.post(f"{ONE}/replay")
@documented(answers=Answers(ok=Replay, problems=(404,)), path=WEBHOOK_ID, personal=True)
def replay(webhook_id: int) -> Response:
    """Send all dead letters of a webhook once more, before what is next. One that fails is a dead letter again."""
    return respond(Replay(service.replay(database(), account().id, webhook_id)))
