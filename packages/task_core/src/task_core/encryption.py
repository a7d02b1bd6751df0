"""Secrets that the services have to read again, encrypted in the database (Fernet: AES-128-CBC and HMAC-SHA-256)."""

from base64 import urlsafe_b64encode
from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from task_core.config import MAKE_KEY, SecretKey

PURPOSE = b"task-api: secrets at rest"
KEY_BYTES = 32


class Undecryptable(Exception):
    """A text cannot be decrypted; the message has the kid of its key, and no secret."""


class Keyring:
    """Encrypts with the first of its keys, and decrypts with the one that a text names: `kid:` and a Fernet token."""

    def __init__(self, keys: Sequence[SecretKey]) -> None:
        self._keys = {key.kid: Fernet(_derived(key.secret)) for key in keys}

    @property
    def first(self) -> str:
        """The kid of the key that encrypts. Raises ValueError where there is none."""
        if not self._keys:
            raise ValueError(f"ENCRYPTION_KEYS: there is no key to encrypt with; {MAKE_KEY}")
        return next(iter(self._keys))

    def encrypt(self, secret: str) -> str:
        """Return a text that `decrypt` returns the secret of. Raises ValueError where there is no key."""
        return f"{self.first}:{self._keys[self.first].encrypt(secret.encode()).decode()}"

    def decrypt(self, text: str) -> str:
        """Return the secret. Raises Undecryptable where its key is missing, or another one with its kid is there."""
        kid, _, token = text.partition(":")
        if kid not in self._keys:
            raise Undecryptable(f"it is encrypted with the key {kid!r}, which ENCRYPTION_KEYS lacks: add it")
        try:
            return self._keys[kid].decrypt(token).decode()
        except InvalidToken:
            raise Undecryptable(
                f"it is not encrypted with the key {kid!r} that ENCRYPTION_KEYS has, but with another of that name:"
                " set that one, and give the new one another name"
            ) from None


def _derived(secret: str) -> bytes:
    """Return a Fernet key of a secret that is random already (RFC 5869)."""
    return urlsafe_b64encode(HKDF(SHA256(), KEY_BYTES, None, PURPOSE).derive(secret.encode()))
