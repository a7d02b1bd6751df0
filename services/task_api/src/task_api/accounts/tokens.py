"""Access tokens: signed JWTs (RFC 7519, with the type of RFC 9068), short-lived, keys chosen by `kid`."""

import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import jwt

from task_api.accounts.model import BadToken
from task_api.config import SigningKey

ALGORITHM = "HS256"
ISSUER = "task-api"
TYPE = "at+jwt"
TOKENS_REMEMBERED = 4096


class TokenIssuer:
    """Signs with the first key, verifies with any.

    To rotate, put a new key first, and take the old one out when its tokens have expired.
    """

    def __init__(self, keys: tuple[SigningKey, ...], seconds: int) -> None:
        self.seconds = seconds
        self._signing = keys[0]
        self._secrets = {key.kid: key.secret for key in keys}
        self._decode = lru_cache(TOKENS_REMEMBERED)(self._decode_and_check)

    def issue(self, account_id: int, session_id: str) -> str:
        """An access token for an account's session."""
        now = datetime.now(UTC)
        claims = {
            "iss": ISSUER,
            "sub": str(account_id),
            "sid": session_id,
            "iat": now,
            "exp": now + timedelta(seconds=self.seconds),
        }
        headers = {"kid": self._signing.kid, "typ": TYPE}
        return jwt.encode(claims, self._signing.secret, algorithm=ALGORITHM, headers=headers)

    def verify(self, token: str) -> str:
        """The session that an access token belongs to. Raises BadToken."""
        session_id, expires_at = self._decode(token)
        if expires_at <= time.time():
            raise BadToken("expired")
        return session_id

    def _decode_and_check(self, token: str) -> tuple[str, float]:
        """What a token says for ever, whatever the time: so it is remembered, and its signature is checked once."""
        try:
            header = jwt.get_unverified_header(token)
            secret = self._secrets.get(header.get("kid", ""))
            if secret is None or header.get("typ") != TYPE:
                raise BadToken("invalid")
            options: Any = {"require": ["iss", "sub", "sid", "iat", "exp"], "verify_exp": False, "verify_iat": False}
            claims = jwt.decode(token, secret, algorithms=[ALGORITHM], issuer=ISSUER, options=options)
        except jwt.PyJWTError:
            raise BadToken("invalid") from None
        session_id, expires_at = claims["sid"], claims["exp"]
        if not isinstance(session_id, str) or not isinstance(expires_at, int | float):
            raise BadToken("invalid")
        return session_id, expires_at
