"""Time-limited credentials, as software that talks to coturn makes them."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest

from core.clock import VirtualClock
from core.errors import OperationError
from core.stun.address import Address
from relay.credential_issuer import CredentialIssuer, turn_uri

ADDRESSES = [Address.from_text("192.0.2.1", 3478), Address.from_text("2001:db8::1", 3478)]


def test_the_password_is_the_hmac_of_the_name() -> None:
    issuer = CredentialIssuer(["first", "second"], ADDRESSES, VirtualClock(unix_s=1_800_000_000))
    made = issuer.issue("alice", 600)
    assert made.username == "1800000600:alice"
    expected = hmac.new(b"first", made.username.encode(), hashlib.sha1).digest()
    assert base64.b64decode(made.password) == expected
    assert made.ttl == 600
    assert made.uris == [
        "turn:192.0.2.1:3478?transport=udp",
        "turn:[2001:db8::1]:3478?transport=udp",
    ]


def test_a_call_is_named_behind_the_account() -> None:
    issuer = CredentialIssuer(["first"], ADDRESSES, VirtualClock(unix_s=1_800_000_000))
    assert issuer.issue("alice", 1, "CALL-7").username == "1800000001:alice#CALL-7"
    assert issuer.issue("user:alice", 1, "CALL-7").username == "1800000001:user:alice#CALL-7"


def test_without_a_secret_it_says_what_to_add() -> None:
    issuer = CredentialIssuer([], ADDRESSES, VirtualClock())
    with pytest.raises(OperationError, match=r"add to \[turn\]: secrets"):
        issuer.issue("alice", 600)


def test_uris_follow_rfc_7065() -> None:
    assert turn_uri(ADDRESSES[0]) == "turn:192.0.2.1:3478?transport=udp"
