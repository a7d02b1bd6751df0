"""Access tokens: signed JWTs (RFC 7519, with the type of RFC 9068), short-lived, keys chosen by `kid`."""

from datetime import UTC, datetime, timedelta

import jwt

from task_api.accounts.model import BadToken
from task_api.config import SigningKey

ALGORITHM = "HS256"
ISSUER = "task-api"
TYPE = "at+jwt"


class TokenIssuer:
    """Signs with the first key, verifies with any.

    To rotate, put a new key first, and take the old one out when its tokens have expired.
    """

    def __init__(self, keys: tuple[SigningKey, ...], seconds: int) -> None:
        self.seconds = seconds
        self._signing = keys[0]
        self._secrets = {key.kid: key.secret for key in keys}

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
        try:
            header = jwt.get_unverified_header(token)
            secret = self._secrets.get(header.get("kid", ""))
            if secret is None or header.get("typ") != TYPE:
                raise BadToken("invalid")
            required = ["iss", "sub", "sid", "iat", "exp"]
            claims = jwt.decode(token, secret, algorithms=[ALGORITHM], issuer=ISSUER, options={"require": required})
        except jwt.ExpiredSignatureError:
            raise BadToken("expired") from None
        except jwt.PyJWTError:
            raise BadToken("invalid") from None
        session_id = claims["sid"]
        if not isinstance(session_id, str):
            raise BadToken("invalid")
        return session_id
