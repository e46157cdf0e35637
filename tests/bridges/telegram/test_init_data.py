"""core.telegram.org/bots/webapps, "Validating data received via the Mini App"."""

from __future__ import annotations

import hashlib
import hmac
import json
from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridges.telegram.init_data import (
    AGE_MAXIMUM_S,
    CLOCKS_DIFFER_S,
    FIELDS_MAXIMUM,
    InitDataError,
    check_untrusted,
    secret_of,
)

TOKEN = "4242:AAtests-only-tests-only-tests-only-0"
NOW_S = 1_790_000_000.0


def signed(token: str = TOKEN, made_s: float = NOW_S, **fields: str) -> str:
    """As Telegram's apps make it, written down from the documentation alone."""
    whole = {
        "query_id": "AAH",
        "user": json.dumps({"id": 11, "first_name": "Алиса", "username": "a&b=c"}),
        "auth_date": str(int(made_s)),
        **fields,
    }
    lines = "\n".join(sorted(f"{name}={value}" for name, value in whole.items()))
    secret = hmac.new(b"WebAppData", token.encode(), hashlib.sha256).digest()
    whole["hash"] = hmac.new(secret, lines.encode(), hashlib.sha256).hexdigest()
    return urlencode(whole)


def test_what_telegram_has_made_names_its_user() -> None:
    assert check_untrusted(signed(), secret_of(TOKEN), NOW_S) == 11
    assert check_untrusted(signed(start_param="CALL-ABCDEFGH"), secret_of(TOKEN), NOW_S) == 11


@pytest.mark.parametrize(
    ("init_data", "reason"),
    [
        ("", "its hash is another"),
        ("auth_date", "no fields that can be read"),
        ("hash=", "its hash is another"),
        ("&".join(f"a{number}=1" for number in range(FIELDS_MAXIMUM + 1)), "no fields"),
        (signed(token="4243:AAtests-only-tests-only-tests-only-0"), "its hash is another"),
        # Those that come last are what was signed.
        ("auth_date=1&" + signed(), "a field is there twice"),
        (signed() + "&query_id=AAH", "a field is there twice"),
        (signed() + "&more=1", "its hash is another"),
        (signed().replace("%22id%22%3A+11", "%22id%22%3A+12"), "its hash is another"),
        (signed(user="{}"), "it names no user"),
        (signed(user="[" * 2_000), "it names no user"),
        (signed(user='{"id": -11}'), "it names no user"),
        (signed(user='{"id": "11"}'), "it names no user"),
        (signed(auth_date="soon"), "it has no date"),
        (signed(query_id="a\nb=c"), "more than one line"),
        (signed(made_s=NOW_S - AGE_MAXIMUM_S - 1), "too old"),
        (signed(made_s=NOW_S + CLOCKS_DIFFER_S + 1), "of the future"),
        (signed().replace("hash=", "hash=%F0%9F%98%80"), "its hash is another"),
    ],
)
def test_nothing_else_does(init_data: str, reason: str) -> None:
    with pytest.raises(InitDataError, match=reason):
        check_untrusted(init_data, secret_of(TOKEN), NOW_S)


@given(st.text(max_size=300))
def test_any_text_is_one_error(init_data: str) -> None:
    with pytest.raises(InitDataError):
        check_untrusted(init_data, secret_of(TOKEN), NOW_S)


@given(st.data())
def test_a_field_that_was_changed_is_found(data: st.DataObject) -> None:
    pairs = parse_qsl(signed())
    place = data.draw(st.integers(0, len(pairs) - 1))
    name, value = pairs[place]
    changed = data.draw(st.text(max_size=40).filter(lambda text: text != value))
    pairs[place] = (name, changed)
    with pytest.raises(InitDataError):
        check_untrusted(urlencode(pairs, errors="surrogatepass"), secret_of(TOKEN), NOW_S)
