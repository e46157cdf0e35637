"""Keys of STUN's credential mechanisms (RFC 8489 sections 9.1.1, 9.2.2 and 14.4)."""

from __future__ import annotations

import hashlib
import unicodedata
from enum import IntEnum

from core.errors import ConfigError


class PasswordAlgorithm(IntEnum):
    """How a long-term key is made (RFC 8489 section 18.5)."""

    MD5 = 1
    SHA256 = 2


def short_term_key(password: str) -> bytes:
    """The key of MESSAGE-INTEGRITY under a short-term credential: the prepared password.

    Raises:
        ConfigError: as `opaque_string`.
    """
    return opaque_string(password).encode()


def long_term_key(
    username: str,
    realm: str,
    password: str,
    algorithm: PasswordAlgorithm = PasswordAlgorithm.MD5,
) -> bytes:
    """The key of a long-term credential (RFC 8489 section 9.2.2): 16 bytes for MD5, 32 for
    SHA-256. Realm and password are prepared, the username is taken as it is on the wire.

    Raises:
        ConfigError: as `opaque_string`.
    """
    text = f"{username}:{opaque_string(realm)}:{opaque_string(password)}".encode()
    if algorithm == PasswordAlgorithm.SHA256:
        return hashlib.sha256(text).digest()
    assert algorithm == PasswordAlgorithm.MD5, "a password algorithm is MD5 or SHA-256"
    # What the RFC prescribes for MESSAGE-INTEGRITY; its HMAC does not rest on collisions.
    return hashlib.md5(text, usedforsecurity=False).digest()


def user_hash(username: str, realm: str) -> bytes:
    """The value of USERHASH, 32 bytes (RFC 8489 section 14.4).

    Raises:
        ConfigError: as `opaque_string`.
    """
    return hashlib.sha256(f"{opaque_string(username)}:{opaque_string(realm)}".encode()).digest()


def opaque_string(text: str) -> str:
    """Prepare by the OpaqueString profile (RFC 8265 section 4.2): spaces that are not ASCII
    become U+0020, then normal form C; case and width stay.

    Raises:
        ConfigError: the text is empty, or holds a character that the profile forbids. The
            message names the character alone, since the text may be a password.
    """
    if not text:
        raise ConfigError("a realm, a user name or a password is empty")
    if text.isascii() and text.isprintable():
        return text
    for position, character in enumerate(text):
        if not _is_allowed(text, position):
            raise ConfigError(
                f"a realm, a user name or a password holds U+{ord(character):04X}, which"
                " RFC 8265 does not allow"
            )
    spaced = "".join(
        " " if unicodedata.category(character) == "Zs" else character for character in text
    )
    return unicodedata.normalize("NFC", spaced)


# RFC 8264 section 9.6: exceptions that general categories would decide otherwise.
_FORBIDDEN = frozenset("\u0640\u07fa\u302e\u302f\u3031\u3032\u3033\u3034\u3035\u303b")

# RFC 8264 sections 9.9 and 9.13: conjoining Jamo and what Unicode calls default-ignorable.
# Joiners are decided before, noncharacters and controls have a category of their own.
_FORBIDDEN_RANGES = (
    (0x00AD, 0x00AD),
    (0x034F, 0x034F),
    (0x061C, 0x061C),
    (0x1100, 0x11FF),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x200B, 0x200F),
    (0x202A, 0x202E),
    (0x2060, 0x206F),
    (0x3164, 0x3164),
    (0xA960, 0xA97F),
    (0xD7B0, 0xD7FF),
    (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFF8),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE0FFF),
)

_VIRAMA = 9
"""Canonical combining class of the signs after which joiners are letters."""


def _is_allowed(text: str, position: int) -> bool:
    """Whether PRECIS's FreeformClass (RFC 8264 section 4.3) has the character at `position`."""
    character = text[position]
    point = ord(character)
    if point in (0x200C, 0x200D):
        # RFC 5892 appendix A.1 and A.2. The first one's alternative, by joining types, needs
        # tables that Python lacks: such a joiner is refused.
        return position > 0 and unicodedata.combining(text[position - 1]) == _VIRAMA
    if character in _FORBIDDEN:
        return False
    if any(first <= point <= last for first, last in _FORBIDDEN_RANGES):
        return False
    # Cc, Cf, Cn, Co and Cs: controls, formats, unassigned, private and surrogates; Zl and Zp.
    category = unicodedata.category(character)
    return category[0] != "C" and category not in ("Zl", "Zp")
