"""Keys: RFC 8489 sections 9.1.1, 9.2.2 and 14.4, and RFC 8265's OpaqueString."""

from __future__ import annotations

import hashlib

import pytest

from core.errors import ConfigError
from tests.support.stun_forms import Form, each_form

COMPOSED = "\u00e9"
DECOMPOSED = "e\u0301"


@each_form
def test_section_9_2_2_long_term_keys(stun: Form) -> None:
    keys = stun.credentials
    md5 = keys.long_term_key("user", "realm", "pass")
    assert md5.hex() == "8493fbc53ba582fb4c044c456bdc40eb"
    sha256 = keys.long_term_key("user", "realm", "pass", keys.PasswordAlgorithm.SHA256)
    assert sha256 == hashlib.sha256(b"user:realm:pass").digest()


@each_form
def test_section_14_4_user_hash(stun: Form) -> None:
    expected = hashlib.sha256(f"{COMPOSED}:realm".encode()).digest()
    assert stun.credentials.user_hash(DECOMPOSED, "realm") == expected


@each_form
def test_the_username_is_as_on_the_wire_and_the_rest_is_prepared(stun: Form) -> None:
    key = stun.credentials.long_term_key
    assert key("user", DECOMPOSED, f"a\u00a0{DECOMPOSED}") == key("user", COMPOSED, f"a {COMPOSED}")
    assert key(DECOMPOSED, "realm", "pass") != key(COMPOSED, "realm", "pass")
    assert stun.credentials.short_term_key(DECOMPOSED) == COMPOSED.encode()


@each_form
@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        ("correct horse", "correct horse"),
        ("1700000000:alice#CALL-7", "1700000000:alice#CALL-7"),
        ("a\u1680b\u3000c", "a b c"),
        ("\u03c0\u00df\u00e5", "\u03c0\u00df\u00e5"),
        ("Foo", "Foo"),
        ("\uff21\u2168\u00aa", "\uff21\u2168\u00aa"),
        ("\u30de\u30c8", "\u30de\u30c8"),
        ("\U0001f600", "\U0001f600"),
        ("\u0915\u094d\u200d\u0937", "\u0915\u094d\u200d\u0937"),
    ],
)
def test_rfc8265_4_2_allowed(stun: Form, text: str, prepared: str) -> None:
    assert stun.credentials.opaque_string(text) == prepared


@each_form
@pytest.mark.parametrize(
    "text",
    [
        "",
        "tab\there",
        "line\n",
        "\x7f",
        "soft\u00adhyphen",
        "zero\u200bwidth",
        "a\u200db",
        "\u200d",
        "\ufeff",
        "\u202e",
        "\u1100",
        "\u0640",
        "\ue000",
        "\U000e0041",
        "\uffff",
        "\u2028",
        "\ud800",
    ],
)
def test_rfc8265_4_2_refused(stun: Form, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        stun.credentials.opaque_string(f"{text}secret" if text else "")
    assert "secret" not in str(caught.value)
