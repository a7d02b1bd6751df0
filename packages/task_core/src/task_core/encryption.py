"""Secrets that the services have to read again, encrypted in the database (libsodium: XChaCha20-Poly1305-IETF)."""

from collections.abc import Sequence
from hashlib import blake2b

from nacl.encoding import URLSafeBase64Encoder
from nacl.exceptions import CryptoError
from nacl.secret import Aead

from task_core.config import MAKE_KEY, SecretKey

PURPOSE = b"secrets at rest"


class Undecryptable(Exception):
    """A text cannot be decrypted; the message has the kid of its key, and no secret."""


class Keyring:
    """Encrypts with the first of its keys, and decrypts with the one that a text names: `kid:` and a message."""

    def __init__(self, keys: Sequence[SecretKey]) -> None:
        self._keys = {key.kid: Aead(_derived(key.secret)) for key in keys}

    @property
    def first(self) -> str:
        """The kid of the key that encrypts. Raises ValueError where there is none."""
        if not self._keys:
            raise ValueError(f"ENCRYPTION_KEYS: there is no key to encrypt with; {MAKE_KEY}")
        return next(iter(self._keys))

    def encrypt(self, secret: str) -> str:
        """Return a text that `decrypt` returns the secret of. Raises ValueError where there is no key."""
        encrypted = self._keys[self.first].encrypt(secret.encode(), encoder=URLSafeBase64Encoder)
        return f"{self.first}:{encrypted.decode()}"

    def decrypt(self, text: str) -> str:
        """Return the secret. Raises Undecryptable where its key is missing, or another one with its kid is there."""
        kid, _, token = text.partition(":")
        if kid not in self._keys:
            raise Undecryptable(f"it is encrypted with the key {kid!r}, which ENCRYPTION_KEYS lacks: add it")
        try:
            return self._keys[kid].decrypt(token.encode(), encoder=URLSafeBase64Encoder).decode()
        except (CryptoError, ValueError):  # ValueError: it is no Base64
            raise Undecryptable(
                f"it is not encrypted with the key {kid!r} that ENCRYPTION_KEYS has, but with another of that name:"
                " set that one, and give the new one another name"
            ) from None


def _derived(secret: str) -> bytes:
    """Return a key of a secret that is random already (RFC 7693)."""
    return blake2b(secret.encode(), digest_size=Aead.KEY_SIZE, person=PURPOSE).digest()
