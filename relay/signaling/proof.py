"""Who has an account's key: a signature over what the node has asked on this very connection."""

from __future__ import annotations

import base64

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from core.errors import SignalingError
from relay.signaling.messages import AccountProof

CONTEXT = "montana sign-in 1"


def signed_text(origin: str, challenge: str) -> bytes:
    """What a page signs: three lines. A page of another origin can't have it signed for ours."""
    return f"{CONTEXT}\n{origin}\n{challenge}".encode()


def address_of_untrusted(proof: AccountProof, origin: str, challenge: str) -> str:
    """The address of the account whose key has signed.

    Raises:
        SignalingError: ``bad-proof``.
    """
    try:
        key = base64.b32decode(proof.key.upper() + "====")
        signature = base64.urlsafe_b64decode(proof.signature + "==")
        VerifyKey(key).verify(signed_text(origin, challenge), signature)
    except (ValueError, BadSignatureError) as error:
        raise SignalingError("bad-proof", "the account's key has not signed this") from error
    # Another spelling of the same bytes would be another account.
    address = base64.b32encode(key).decode().lower().rstrip("=")
    if address != proof.key:
        raise SignalingError("bad-proof", "the account's key is not spelled as it should be")
    return f"key:{address}"
