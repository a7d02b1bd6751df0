"""Signatures of webhooks by the Standard Webhooks convention: https://www.standardwebhooks.com."""

import hmac
import secrets
from base64 import b64decode, b64encode
from collections.abc import Iterable

PREFIX = "whsec_"
SECRET_BYTES = 32


def new_secret() -> str:
    """Return a random secret as both sides keep it: `whsec_` and base64."""
    return PREFIX + b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def signed(keys: Iterable[str], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers of a message: its id, its time in Unix seconds, and one signature (v1) for each secret."""
    content = f"{message_id}.{timestamp}.".encode() + body
    digests = (hmac.digest(b64decode(key.removeprefix(PREFIX)), content, "sha256") for key in keys)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{b64encode(digest).decode()}" for digest in digests),
    }
