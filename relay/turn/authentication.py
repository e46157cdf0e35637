"""The long-term credential mechanism (RFC 8489 section 9.2), without memory of strangers."""

from __future__ import annotations

from typing import NamedTuple

from core.errors import StunError
from core.stun.address import Address
from core.stun.attributes import (
    decode_password_algorithm_untrusted,
    decode_password_algorithms_untrusted,
    encode_password_algorithms,
)
from core.stun.constants import Attribute
from core.stun.credentials import PasswordAlgorithm
from core.stun.message import Message, check_integrity, check_integrity_sha256
from relay.turn.allocation import Allocation
from relay.turn.credentials import CredentialBook, Identity
from relay.turn.nonce import COOKIE, NonceMint

_ALGORITHMS: list[tuple[int, bytes]] = [
    (PasswordAlgorithm.SHA256, b""),
    (PasswordAlgorithm.MD5, b""),
]
_ALGORITHMS_VALUE = encode_password_algorithms(_ALGORITHMS)
_MD5 = int(PasswordAlgorithm.MD5)

UNAUTHENTICATED = 401
STALE_NONCE = 438


class Proof(NamedTuple):
    """A request whose sender has proven to know a password.

    Attributes:
        identity: None where the key was that of the five-tuple's allocation.
        uses_sha256: the answer is to carry MESSAGE-INTEGRITY-SHA256.
    """

    username: bytes
    key: bytes
    algorithm: int
    identity: Identity | None
    uses_sha256: bool
    payer: str = ""


class Authenticator:
    """Checks requests, and says what a challenge holds."""

    def __init__(self, realm: str, book: CredentialBook, mint: NonceMint) -> None:
        self._realm = realm.encode()
        self._book = book
        self._mint = mint

    def challenge(self, client: Address, now_s: int) -> list[tuple[int, bytes]]:
        """What a 401 and a 438 hold beside their code."""
        return [
            (Attribute.REALM, self._realm),
            (Attribute.NONCE, self._mint.make(client, now_s)),
            (Attribute.PASSWORD_ALGORITHMS, _ALGORITHMS_VALUE),
        ]

    def authenticate_untrusted(
        self, message: Message, client: Address, allocation: Allocation | None, now_s: int
    ) -> Proof:
        """Check a request's credentials, in the order of RFC 8489 section 9.2.4.

        Args:
            allocation: that of the request's five-tuple: its key is at hand, and stays good
                when its credential has expired meanwhile.

        Raises:
            StunError: 400, 401, 438.
        """
        has_sha256 = message.first(Attribute.MESSAGE_INTEGRITY_SHA256) is not None
        if not has_sha256 and message.first(Attribute.MESSAGE_INTEGRITY) is None:
            raise StunError("no credentials", UNAUTHENTICATED)
        nonce = message.first(Attribute.NONCE)
        username = message.first(Attribute.USERNAME)
        hashed = message.first(Attribute.USERHASH)
        if nonce is None or message.first(Attribute.REALM) is None:
            raise StunError("NONCE or REALM is missing")
        if username is None and hashed is None:
            raise StunError("USERNAME is missing")
        algorithm = _chosen_algorithm_untrusted(message, nonce)
        if username is None:
            assert hashed is not None
            username = self._book.name_of_hash(hashed)
            if username is None:
                raise StunError("nobody has this user name", UNAUTHENTICATED)
        check = check_integrity_sha256 if has_sha256 else check_integrity
        identity: Identity | None = None
        payer = ""
        if (
            allocation is not None
            and allocation.username == username
            and allocation.algorithm == algorithm
        ):
            key = allocation.key
            if not check(message, key):
                raise StunError("the password is wrong", UNAUTHENTICATED)
        else:
            identity = self._book.look_up_untrusted(username)
            if identity is None:
                raise StunError("nobody has this user name", UNAUTHENTICATED)
            keys = self._book.keys(username, identity, algorithm)
            for key, who in zip(keys, identity.payers, strict=True):
                if check(message, key):
                    payer = who
                    break
            else:
                raise StunError("the password is wrong", UNAUTHENTICATED)
        # Last, as the RFC has it: who knows the password gets a new nonce for an old one.
        if not self._mint.is_fresh(nonce, client, now_s):
            raise StunError("the nonce is not fresh", STALE_NONCE)
        return Proof(username, key, algorithm, identity, has_sha256, payer)


def _chosen_algorithm_untrusted(message: Message, nonce: bytes) -> int:
    """The password algorithm of a request; RFC 8489 section 9.2.4 has both attributes or none.

    What was offered must come back as it was: whoever takes SHA-256 out of the offer on its way
    to the client is found out here, since the request is under the client's integrity.

    Raises:
        StunError: 400.
    """
    offered = message.first(Attribute.PASSWORD_ALGORITHMS)
    chosen = message.first(Attribute.PASSWORD_ALGORITHM)
    if offered is None and chosen is None:
        return _MD5
    if offered is None or chosen is None or not nonce.startswith(COOKIE):
        raise StunError("a password algorithm without the offer, or the offer alone")
    if decode_password_algorithms_untrusted(offered) != _ALGORITHMS:
        raise StunError("the offered password algorithms were changed on the way")
    algorithm = decode_password_algorithm_untrusted(chosen)
    if algorithm not in _ALGORITHMS:
        raise StunError("this password algorithm was not offered")
    return int(algorithm[0])
