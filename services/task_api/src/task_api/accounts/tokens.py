"""Access tokens: signed JWTs (RFC 7519, with the type of RFC 9068), short-lived, keys chosen by `kid`."""

import secrets
import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import jwt

from task_api.accounts.model import BadToken
from task_core.config import SecretKey

ALGORITHM = "HS256"
ISSUER = "task-api"
TYPE = "at+jwt"
DEVICE_TYPE = "device+jwt"
DEVICE_SECONDS = 180 * 86400
TOKENS_REMEMBERED = 4096


class TokenIssuer:
    """Signs with the first key, verifies with any.

    To rotate, put a new key first, and remove the old one when its tokens have expired.
    """

    def __init__(self, keys: tuple[SecretKey, ...], seconds: int) -> None:
        self.seconds = seconds
        self._signing = keys[0]
        self._secrets = {key.kid: key.secret for key in keys}
        self._decode = lru_cache(TOKENS_REMEMBERED)(self._decode_and_check)

    def issue(self, account_id: int, session_id: str, seconds: int | None = None) -> str:
        """Return an access token for an account's session, valid for so many seconds or as long as all are."""
        now = datetime.now(UTC)
        claims = {
            "iss": ISSUER,
            "sub": str(account_id),
            "sid": session_id,
            "iat": now,
            "exp": now + timedelta(seconds=self.seconds if seconds is None else seconds),
        }
        headers = {"kid": self._signing.kid, "typ": TYPE}
        return jwt.encode(claims, self._signing.secret, algorithm=ALGORITHM, headers=headers)

    def issue_device(self, account_id: int) -> str:
        """Return a token that shows, at a later login, that this device was logged in to the account before."""
        now = datetime.now(UTC)
        claims = {
            "iss": ISSUER,
            "sub": str(account_id),
            "jti": secrets.token_hex(16),
            "exp": now + timedelta(seconds=DEVICE_SECONDS),
        }
        headers = {"kid": self._signing.kid, "typ": DEVICE_TYPE}
        return jwt.encode(claims, self._signing.secret, algorithm=ALGORITHM, headers=headers)

    def device(self, token: str, account_id: int) -> str | None:
        """Return the name of the device that a device token of this account belongs to; None for any other token."""
        try:
            claims = self._claims(token, DEVICE_TYPE, ["iss", "sub", "jti", "exp"])
        except BadToken:
            return None
        known = claims["sub"] == str(account_id) and claims["exp"] > time.time()
        return str(claims["jti"]) if known else None

    def verify(self, token: str) -> str:
        """Return the session that an access token belongs to. Raises BadToken."""
        session_id, expires_at = self._decode(token)
        if expires_at <= time.time():
            raise BadToken("expired")
        return session_id

    def _decode_and_check(self, token: str) -> tuple[str, float]:
        """Return what never changes about a token, whatever the time: cached, so its signature is checked once."""
        claims = self._claims(token, TYPE, ["iss", "sub", "sid", "iat", "exp"])
        session_id, expires_at = claims["sid"], claims["exp"]
        if not isinstance(session_id, str) or not isinstance(expires_at, int | float):
            raise BadToken("invalid")
        return session_id, expires_at

    def _claims(self, token: str, kind: str, required: list[str]) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
            secret = self._secrets.get(header.get("kid", ""))
            if secret is None or header.get("typ") != kind:
                raise BadToken("invalid")
            options: Any = {"require": required, "verify_exp": False, "verify_iat": False}
            claims: dict[str, Any] = jwt.decode(token, secret, algorithms=[ALGORITHM], issuer=ISSUER, options=options)
        except jwt.PyJWTError:
            raise BadToken("invalid") from None
        return claims
