"""Secrets that the services have to read again, encrypted in the database (libsodium: XChaCha20-Poly1305-IETF).

Each is bound to what it belongs to: the ciphertext of one row is no secret of another row, or of another kind.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

from nacl.encoding import URLSafeBase64Encoder
from nacl.exceptions import CryptoError
from nacl.secret import Aead
from sqlalchemy import Column, ColumnElement, Connection, FromClause, Row, Select, select, true, update

from task_core.config import MAKE_KEY, SecretKey

PURPOSE = b"secrets at rest"
AT_ONCE = 500
"""How many secrets are encrypted in one transaction."""

OUTDATED = "a process without this key, or of the version before, does: restart it, and run this again"

BOUND = "2:"
"""What follows the kid in a ciphertext that is bound to its row. Those of the version before have nothing there."""

Transaction = Callable[[], AbstractContextManager[Connection]]
Kind = Literal["second factor of account", "webhook"]
"""What a secret is for. It is part of what a ciphertext is bound to: whoever renames one makes them unreadable."""

UNBOUND: frozenset[Kind] = frozenset({"webhook"})
"""The kinds of which the version before has written ciphertexts, which are not bound."""


class Undecryptable(Exception):
    """A ciphertext cannot be decrypted; the message has the kid of its key, and no secret."""


class Keyring:
    """Encrypts with the first of its keys, and decrypts with the one that a ciphertext names: `kid:2:` and a message.

    The message authenticates the kind of the secret and the id of its row too (additional data, RFC 8439).
    """

    def __init__(self, keys: Sequence[SecretKey]) -> None:
        self._keys = {key.kid: Aead(_derived(key.secret)) for key in keys}
        self._first = tuple(keys[:1])

    def __bool__(self) -> bool:
        """Whether there is a key."""
        return bool(self._keys)

    @property
    def first(self) -> str:
        """The kid of the key that encrypts. Raises ValueError where there is none."""
        if not self._keys:
            raise ValueError(f"ENCRYPTION_KEYS: there is no key to encrypt with; {MAKE_KEY}")
        return next(iter(self._keys))

    def alone(self) -> "Keyring":
        """Return the keyring that is left when the keys after the first are dropped."""
        return Keyring(self._first)

    def encrypt(self, secret: str, kind: Kind, row_id: int) -> str:
        """Return a ciphertext that `decrypt` returns the secret of. Raises ValueError where there is no key."""
        encrypted = self._keys[self.first].encrypt(secret.encode(), _bound(kind, row_id), encoder=URLSafeBase64Encoder)
        return f"{self.first}:{BOUND}{encrypted.decode()}"

    def encrypts_so(self, ciphertext: str) -> bool:
        """Return whether a ciphertext is as `encrypt` makes it now: with the first key, and bound."""
        return ciphertext.startswith(f"{self.first}:{BOUND}")

    def decrypt(self, ciphertext: str, kind: Kind, row_id: int) -> str:
        """Return the secret. Raises Undecryptable where its key is missing, or another one with its kid is there.

        Likewise for the ciphertext of another row or kind, and for none.
        """
        if not ciphertext:
            raise Undecryptable(
                "its ciphertext is missing, as in an export of the version before: turn the second factor off,"
                " or rotate the webhook's secret"
            )
        kid, _, message = ciphertext.partition(":")
        if kid not in self._keys:
            raise Undecryptable(f"it is encrypted with the key {kid!r}, which ENCRYPTION_KEYS lacks: add it")
        bound = message.startswith(BOUND)
        data = _bound(kind, row_id) if bound else b""
        encoded = message.removeprefix(BOUND) if bound or kind in UNBOUND else ""
        try:
            return self._keys[kid].decrypt(encoded.encode(), data, encoder=URLSafeBase64Encoder).decode()
        except (CryptoError, ValueError):  # ValueError: it is no Base64
            raise Undecryptable(
                f"it is not encrypted with the key {kid!r} that ENCRYPTION_KEYS has, but with another of that name:"
                " set that one, and give the new one another name; or it was changed, or is of another row"
            ) from None


class EncryptedColumn(NamedTuple):
    """A column of ciphertexts, and where the same secrets may be in clear, which are the newest then.

    The version before writes them there, and this one where it has no key.
    """

    kind: Kind
    column: Column[Any]
    in_clear: Callable[[Any], str | None]
    """Returns the secret that a row has in clear, None where it has none."""

    cleared: Callable[[], dict[str, Any]]
    """Returns the columns that may have it in clear, as they are where it is encrypted."""

    present: ColumnElement[bool] = true()
    """The condition that a row has a secret."""

    def read(self, keyring: Keyring, row: Any) -> str:
        """Return the secret of a row that has one. Raises Undecryptable."""
        clear = self.in_clear(row)
        return clear if clear is not None else keyring.decrypt(self._ciphertext(row), self.kind, row.id)

    def columns(self, keyring: Keyring, row_id: int, secret: str) -> dict[str, Any]:
        """Return the columns that keep a secret. Raises ValueError where there is no key."""
        return {**self.cleared(), self.column.name: keyring.encrypt(secret, self.kind, row_id)}

    def encrypt(self, write: Transaction, keyring: Keyring) -> int:
        """Encrypt the secrets that are not as the keyring encrypts now, in pieces; return how many.

        Rows that others hold are passed over, and then waited for one by one: who waits for a row holds no other, so
        that nobody is in a deadlock with this. Those that are held keep nobody from adding rows that refer to them.

        Raises Undecryptable, also for one that has the name of the first key: another key had that name.
        """

        def encrypt(connection: Connection, row: Row[Any]) -> bool:
            secret, as_now = self._named(keyring, row), self._as_now(keyring, row)
            if not as_now:
                changed = update(self.column.table).where(self._id == row.id)
                connection.execute(changed.values(**self.columns(keyring, row.id, secret)))
            return not as_now

        counted, after = 0, -1
        while True:
            with write() as connection:
                ids = connection.scalars(self._page(self._id, after)).all()
                rows = connection.execute(self._held(ids, skip_locked=True)).all()
                counted += sum(encrypt(connection, row) for row in rows)
            for row_id in sorted(set(ids) - {row.id for row in rows}):
                with write() as connection:
                    counted += sum(encrypt(connection, row) for row in connection.execute(self._held([row_id])))
            if not ids:
                return counted
            after = ids[-1]

    def confirm(self, read: Transaction, keyring: Keyring) -> int:
        """Read all secrets back with the first key; return how many.

        Raises Undecryptable for one that is not encrypted with that key: it has been written since.
        """
        first = keyring.alone()
        counted, after = 0, -1
        while True:
            with read() as connection:
                rows = connection.execute(self._page(self.column.table, after)).all()
            for row in rows:
                self._named(first, row)
                if not self._as_now(first, row):
                    raise Undecryptable(f"the secret of {self.kind} {row.id} was written meanwhile, as {OUTDATED}")
            if not rows:
                return counted
            counted, after = counted + len(rows), rows[-1].id

    @property
    def _id(self) -> Column[Any]:
        return self.column.table.c.id

    def _ciphertext(self, row: Any) -> str:
        return getattr(row, self.column.name) or ""

    def _named(self, keyring: Keyring, row: Row[Any]) -> str:
        try:
            return self.read(keyring, row)
        except Undecryptable as error:
            raise Undecryptable(f"the secret of {self.kind} {row.id}: {error}") from None

    def _as_now(self, keyring: Keyring, row: Row[Any]) -> bool:
        return self.in_clear(row) is None and keyring.encrypts_so(self._ciphertext(row))

    def _page(self, what: Column[Any] | FromClause, after: int) -> Select[Any]:
        """Return a statement for at most AT_ONCE rows that have a secret and whose ids are greater than `after`."""
        return select(what).where(self.present, self._id > after).order_by(self._id).limit(AT_ONCE)

    def _held(self, ids: Sequence[int], *, skip_locked: bool = False) -> Select[Any]:
        """Return a statement for the rows of these that have a secret, held until the transaction ends."""
        rows = select(self.column.table).where(self.present, self._id.in_(ids)).order_by(self._id)
        return rows.with_for_update(key_share=True, skip_locked=skip_locked)


def _bound(kind: Kind, row_id: int) -> bytes:
    return f"{kind} {row_id}".encode()


def _derived(secret: str) -> bytes:
    """Return a key of a secret that is random already (RFC 7693)."""
    return blake2b(secret.encode(), digest_size=Aead.KEY_SIZE, person=PURPOSE).digest()
