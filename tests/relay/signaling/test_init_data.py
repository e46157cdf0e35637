"""Telegram's initData: "Validating data received via the Mini App" of core.telegram.org."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace
from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from core.api.bridge_messages import BridgeAnswerRequest, InitDataBody
from core.clock import VirtualClock
from core.errors import OperationError, SignalingError
from core.log import REPEATED_INTERVAL_S, TextFormatter
from relay.signaling.init_data import (
    AGE_MAXIMUM_S,
    CLOCKS_DIFFER_S,
    FIELDS_MAXIMUM,
    INIT_DATA_MAXIMUM,
    QUESTIONS_A_MINUTE,
    TelegramProof,
    parse_untrusted,
)
from tests.support.telegram_user import (
    BOT,
    CONFIG,
    fields_of,
    hash_of,
    init_data,
    signed,
)

pytestmark = pytest.mark.trio

USER = 5_000_000_001
CLIENT = "192.0.2.7"


class Bridge:
    """Checks the hash, as the bridge does which has the token."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.is_away = False

    async def ask(self, body: InitDataBody, timeout_s: float) -> BridgeAnswerRequest:
        assert timeout_s > 0
        if self.is_away:
            raise OperationError("the bridge telegram is not connected", "bridge_away")
        self.asked.append(body.init_data)
        fields = dict(parse_qsl(body.init_data, strict_parsing=True))
        ok = fields["hash"] == hash_of(fields)
        text = str(parse_untrusted(body.init_data).user) if ok else "another hash"
        return BridgeAnswerRequest("0" * 32, ok, text)


class Prover:
    def __init__(self, **config: object) -> None:
        self.clock = VirtualClock()
        self.bridge = Bridge()
        self.now_s = int(self.clock.unix_s())
        config = {"public_key": CONFIG.public_key} | config
        self.proof = TelegramProof(
            replace(CONFIG, **config),  # type: ignore[arg-type]
            self.clock,
            self.bridge.ask,
        )

    async def address(self, text: str) -> str:
        return await self.proof.address_of_untrusted(text, CLIENT)

    async def flood(self, text: str) -> None:
        for _ in range(100):
            await self.refusal(text)

    async def refusal(self, text: str) -> str:
        with pytest.raises(SignalingError) as refused:
            await self.address(text)
        return refused.value.code


async def test_what_telegram_has_signed_for_third_parties_names_its_user() -> None:
    prover = Prover()
    assert await prover.address(init_data(USER, prover.now_s)) == f"tg:{USER}"
    assert not prover.bridge.asked, "nobody needs the token for it"


@pytest.mark.parametrize("name", ["auth_date", "user", "query_id", "chat_type", "signature"])
async def test_a_field_that_was_changed_is_refused(name: str) -> None:
    prover = Prover()
    text = init_data(USER, prover.now_s, chat_type="private")
    fields = dict(parse_qsl(text))
    assert await prover.address(urlencode(fields)) == f"tg:{USER}"
    old = fields[name]
    fields[name] = {"auth_date": str(prover.now_s - 1), "user": '{"id":6}'}.get(name, f"A{old[1:]}")
    if fields[name] == old:
        fields[name] = f"B{old[1:]}"
    assert await prover.refusal(urlencode(fields)) == "bad-proof"


async def test_another_key_and_another_bot_prove_nothing() -> None:
    prover = Prover()
    stranger = SigningKey(bytes(range(32)))
    fields = fields_of(USER, prover.now_s)
    assert await prover.refusal(signed(fields, key=stranger)) == "bad-proof"
    assert await prover.refusal(signed(fields, token=f"{BOT + 1}:other")) == "bad-proof"


async def test_age() -> None:
    prover = Prover()
    for made_s, code in (
        (prover.now_s - AGE_MAXIMUM_S, None),
        (prover.now_s - AGE_MAXIMUM_S - 1, "stale-proof"),
        (prover.now_s + CLOCKS_DIFFER_S, None),
        (prover.now_s + CLOCKS_DIFFER_S + 1, "bad-proof"),
        (10**15, "bad-proof"),
    ):
        text = init_data(USER, made_s)
        if code is None:
            assert await prover.address(text) == f"tg:{USER}"
        else:
            assert await prover.refusal(text) == code


async def test_without_a_signature_the_bridge_is_asked_which_has_the_token() -> None:
    for prover, text in (
        (one := Prover(), signed(fields_of(USER, one.now_s), key=None)),
        (other := Prover(public_key=""), init_data(USER, other.now_s)),
    ):
        assert await prover.address(text) == f"tg:{USER}"
        assert prover.bridge.asked == [text]
        forged = signed(fields_of(USER, prover.now_s), key=None, token=f"{BOT}:guessed")
        assert await prover.refusal(forged) == "bad-proof"
        old = signed(fields_of(USER, prover.now_s - AGE_MAXIMUM_S - 1), key=None)
        assert await prover.refusal(old) == "stale-proof"
        prover.bridge.is_away = True
        assert await prover.refusal(signed(fields_of(USER, prover.now_s), key=None)) == (
            "unavailable"
        )


async def test_without_the_bots_number_the_bridge_is_asked_about_what_is_signed_too() -> None:
    prover = Prover(bot_id=None)
    text = init_data(USER, prover.now_s)
    assert await prover.address(text) == f"tg:{USER}"
    assert prover.bridge.asked == [text]


async def test_a_bridge_that_says_yes_to_another_user_proves_nothing() -> None:
    prover = Prover()

    async def ask(_body: InitDataBody, _timeout_s: float) -> BridgeAnswerRequest:
        return BridgeAnswerRequest("0" * 32, True, str(USER + 1))

    proof = TelegramProof(CONFIG, prover.clock, ask)
    with pytest.raises(SignalingError, match="not signed"):
        await proof.address_of_untrusted(signed(fields_of(USER, prover.now_s), key=None), CLIENT)


async def test_one_network_asks_the_bridge_so_often_and_no_more() -> None:
    prover = Prover()
    text = signed(fields_of(USER, prover.now_s), key=None)
    for _ in range(QUESTIONS_A_MINUTE):
        await prover.address(text)
    assert await prover.refusal(text) == "too-many"
    assert len(prover.bridge.asked) == QUESTIONS_A_MINUTE
    assert await prover.proof.address_of_untrusted(text, "198.51.100.9") == f"tg:{USER}"


async def test_where_telegram_is_not_configured_nothing_is_believed() -> None:
    prover = Prover()
    proof = TelegramProof(None, prover.clock, prover.bridge.ask)
    with pytest.raises(SignalingError, match="not signed"):
        await proof.address_of_untrusted(init_data(USER, prover.now_s), CLIENT)


async def test_names_that_come_twice_and_what_is_too_long_are_refused() -> None:
    prover = Prover()
    text = init_data(USER, prover.now_s)
    for more in (
        f"&auth_date={prover.now_s}",
        "&user=%7B%22id%22%3A6%7D",
        "&signature=AAAA",
        "&hash=00",
        "&%61uth_date=5",
    ):
        assert await prover.refusal(text + more) == "bad-proof"
        assert await prover.refusal(more[1:] + "&" + text) == "bad-proof"
    fields = fields_of(USER, prover.now_s)
    assert await prover.refusal(signed(fields | {"start_param": "x" * INIT_DATA_MAXIMUM})) == (
        "bad-proof"
    )
    many = {f"a{'_' * number}": "1" for number in range(FIELDS_MAXIMUM)}
    assert await prover.refusal(signed(fields | many)) == "bad-proof"
    # What is joined by lines' ends can be taken apart in another way.
    assert await prover.refusal(signed(fields | {"chat_type": "a\nuser=6"})) == "bad-proof"


async def test_forgeries_are_logged_once_a_minute_and_not_quoted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    prover = Prover()
    good = init_data(USER, prover.now_s)
    await prover.address(good)
    old = init_data(USER, prover.now_s - AGE_MAXIMUM_S - 1)
    assert await prover.refusal(old) == "stale-proof"
    assert not caplog.records, "a page that was open for long is no forgery"
    stranger = signed(fields_of(USER, prover.now_s), key=SigningKey(bytes(range(32))))
    hashed = signed(fields_of(USER, prover.now_s), key=None, token=f"{BOT}:guessed")
    await prover.flood(stranger)
    assert await prover.refusal(hashed) == "bad-proof"
    await prover.flood("no fields")
    await prover.flood(init_data(USER, prover.now_s + CLOCKS_DIFFER_S + 1))
    lines = [TextFormatter().format(record) for record in caplog.records]
    assert [line.partition("reason=")[2] for line in lines] == [
        f'"{reason}" times=1 error=InitDataError'
        for reason in (
            "its signature is not Telegram's for this bot",
            "the bridge telegram has refused it",
            "no fields that can be read",
            "it is of the future",
        )
    ]
    assert all("initData was refused" in line for line in lines)
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    for part in (str(USER), "Ann", "AAHdF6IQAAAAAN0XohDhrOrc", "auth_date", "guessed"):
        assert part not in "".join(lines)
    caplog.clear()
    prover.clock.advance_s(REPEATED_INTERVAL_S)
    assert await prover.refusal("no fields") == "bad-proof"
    assert "times=100" in TextFormatter().format(caplog.records[0])


async def test_whatever_is_shown_is_taken_apart_or_refused() -> None:
    text = init_data(USER, 1_800_000_000)

    @given(
        st.one_of(
            st.text(max_size=300),
            st.tuples(st.integers(0, len(text)), st.text(max_size=8), st.integers(0, 20)).map(
                lambda cut: text[: cut[0]] + cut[1] + text[cut[0] + cut[2] :]
            ),
            st.dictionaries(st.text(max_size=8), st.text(max_size=20)).map(urlencode),
        )
    )
    @example('user={"id":' + "[" * 2000)
    @example("auth_date=1&user=\ud800")
    @example("auth_date=1&user=%ff")
    def tried(shown: str) -> None:
        with suppress(SignalingError):
            data = parse_untrusted(shown)
            assert data.user > 0
            assert data.made_s > 0

    tried()
