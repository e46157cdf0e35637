"""Who a client is: static users, and time-limited credentials as in the TURN REST API draft.

A time-limited user name is `expiry:account`, split at the first colon; its password is the base64
of its HMAC-SHA1 under one of the configured secrets. `#CALL-...` at its end names a call.
"""

from __future__ import annotations

import hmac
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from core.errors import ConfigError, StunError
from core.stun.constants import USERNAME_MAXIMUM_BYTES
from core.stun.credentials import PasswordAlgorithm, long_term_key, user_hash

_EXPIRY_DIGITS = 12
_CALL_MARK = "#CALL-"


class Identity(NamedTuple):
    """What a user name says; nothing of it is proven until a key fits.

    Attributes:
        account: whose quota it is.
        session: what is charged together: a call, or this credential.
        expires_unix_s: None for a static user.
        passwords: those that are right, one a secret.
        payers: for each of them, the account that pays.
        is_call: whether a call pays in place of the account.
    """

    account: str
    session: str
    expires_unix_s: int | None
    passwords: tuple[str, ...]
    payers: tuple[str, ...]
    is_call: bool = False

    def __repr__(self) -> str:
        return f"<Identity {self.session}>"


class CredentialBook:
    """Looks user names up.

    Args:
        users: static users and their passwords.
        secrets: of time-limited credentials, all of them valid.
        payers: a static user or a secret -> the account that pays in place of the one that is
            named.
    """

    def __init__(
        self,
        realm: str,
        users: Mapping[str, str],
        secrets: Sequence[str],
        payers: Mapping[str, str] | None = None,
    ) -> None:
        self._realm = realm
        self._payers = payers or {}
        self._secret_texts = tuple(secrets)
        self._users = dict(users)
        self._secrets = [secret.encode() for secret in secrets]
        # A hash can't be reversed, so with secrets nobody is asked to hide the user name.
        self._by_hash = {} if secrets else {user_hash(name, realm): name for name in users}
        self.knows_hashes = not secrets

    def name_of_hash(self, value: bytes) -> bytes | None:
        """The user name behind a USERHASH, None where nobody has it."""
        name = self._by_hash.get(value)
        return None if name is None else name.encode()

    def look_up_untrusted(self, username: bytes) -> Identity | None:
        """What the user name says; None where it is nobody's."""
        if len(username) > USERNAME_MAXIMUM_BYTES:
            return None
        try:
            text = username.decode()
        except UnicodeDecodeError:
            return None
        password = self._users.get(text)
        if password is not None:
            return Identity(text, text, None, (password,), (self._payers.get(text, text),))
        expiry, colon, account = text.partition(":")
        if not colon or not self._secrets:
            return None
        if not (expiry.isascii() and expiry.isdigit() and len(expiry) <= _EXPIRY_DIGITS):
            return None
        session = text
        account, mark, call = account.partition(_CALL_MARK)
        if mark:
            session = mark[1:] + call
        passwords = tuple(
            b64encode(hmac.digest(secret, username, "sha1")).decode() for secret in self._secrets
        )
        payers = tuple(self._payers.get(secret, account) for secret in self._secret_texts)
        if not (account or mark):
            return None
        return Identity(account, session, int(expiry), passwords, payers, bool(mark))

    def keys(self, username: bytes, identity: Identity, algorithm: int) -> list[bytes]:
        """The keys of which one must fit.

        Raises:
            StunError: 401, the user name can't be part of a key.
        """
        try:
            return [
                long_term_key(
                    username.decode(), self._realm, password, PasswordAlgorithm(algorithm)
                )
                for password in identity.passwords
            ]
        except ConfigError as error:
            raise StunError("no key can be made for this user", 401) from error
