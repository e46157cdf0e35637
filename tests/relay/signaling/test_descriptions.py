"""Session descriptions that pass: what they say of media, and that they give no address away."""

from __future__ import annotations

import contextlib
import re
from ipaddress import ip_address

import hypothesis.strategies as st
import pytest
from aiortc import RTCPeerConnection
from hypothesis import given, settings

from core.errors import SignalingError
from relay.signaling.descriptions import (
    CANDIDATE_MAXIMUM_BYTES,
    DESCRIPTION_MAXIMUM_BYTES,
    Kind,
    kind_of_untrusted,
    relayed_candidate_untrusted,
    relayed_description_untrusted,
)

RELAYS = {ip_address("198.51.100.7").packed, ip_address("2001:db8::7").packed}
RELAY = (
    "candidate:3 1 udp 33562367 198.51.100.7 50123 typ relay raddr 192.168.1.9 rport 55123 "
    "generation 0 ufrag EsAw network-id 3 network-cost 10"
)
HOME = ("192.168.1.9", "203.0.113.50", "fd00::9", "d5f3.local")
CANDIDATES = [
    "candidate:1 1 udp 2122260223 192.168.1.9 55123 typ host generation 0 ufrag EsAw network-id 3",
    "candidate:1 1 udp 2122260223 d5f3.local 55123 typ host generation 0",
    "candidate:2 1 udp 1686052607 203.0.113.50 55123 typ srflx raddr 192.168.1.9 rport 55123",
    "candidate:4 1 tcp 1518280447 fd00::9 9 typ host tcptype active",
    # Somebody else's relay tells whose it is as little as ours, and who asks it for what.
    "candidate:5 1 udp 33562367 203.0.113.99 50123 typ relay raddr 0.0.0.0 rport 0",
]


def is_own(ip: bytes) -> bool:
    return ip in RELAYS


def description(*sections: str) -> str:
    head = "v=0\r\no=- 4611731400430051336 2 IN IP4 192.168.1.9\r\ns=-\r\nt=0 0\r\n"
    return head + "".join(sections)


def section(media: str, direction: str = "sendrecv", port: int = 55123, *more: str) -> str:
    lines = [
        f"m={media} {port} UDP/TLS/RTP/SAVPF 111",
        "c=IN IP4 203.0.113.50",
        "a=rtcp:55124 IN IP4 203.0.113.50",
        *(f"a={one}" for one in (*CANDIDATES, RELAY)),
        "a=remote-candidates:1 203.0.113.50 55123",
        "a=ice-ufrag:EsAw",
        "a=fingerprint:sha-256 49:66:12:17",
        f"a={direction}",
        *more,
    ]
    return "".join(f"{line}\r\n" for line in lines)


AUDIO, VIDEO = section("audio"), section("video")


@pytest.mark.parametrize(
    ("sections", "kind"),
    [
        ([], Kind.VOICE),
        ([AUDIO], Kind.VOICE),
        ([AUDIO, VIDEO], Kind.VIDEO),
        ([AUDIO, section("video", "sendonly")], Kind.VIDEO),
        ([AUDIO, section("video", "recvonly")], Kind.VIDEO),
        ([AUDIO, section("video", "inactive")], Kind.VOICE),
        ([AUDIO, section("video", "sendrecv", 0)], Kind.VOICE),
        # RFC 9143 section 6: port 0 refuses nothing there.
        ([AUDIO, section("video", "sendrecv", 0, "a=bundle-only")], Kind.VIDEO),
        ([AUDIO, section("video", "inactive"), VIDEO], Kind.SCREEN),
        ([AUDIO, VIDEO, VIDEO], Kind.SCREEN),
        ([AUDIO, VIDEO, section("video", "inactive")], Kind.VIDEO),
        ([AUDIO, section("application")], Kind.VOICE),
    ],
)
def test_the_kind_is_what_was_agreed_on(sections: list[str], kind: Kind) -> None:
    assert kind_of_untrusted(description(*sections)) is kind
    # Whatever is said beside it.
    assert kind_of_untrusted(description("a=kind:voice\r\n", *sections)) is kind


@pytest.mark.parametrize("line", ["a=sendrecv ", "a=sendrecv:1", "a=sendonly", "a=recvonly x"])
def test_what_a_browser_would_have_flow_is_no_refusal(line: str) -> None:
    hidden = section("video", "inactive", 9, line)
    assert kind_of_untrusted(description(AUDIO, hidden)) is Kind.VIDEO
    hidden = section("video", "sendrecv", 0, "a=bundle-only ")
    assert kind_of_untrusted(description(AUDIO, hidden)) is Kind.VIDEO


def test_what_stands_before_the_sections_refuses_none() -> None:
    silent = VIDEO.replace("a=sendrecv\r\n", "")
    assert silent != VIDEO
    assert kind_of_untrusted(description("a=inactive\r\n", AUDIO, silent)) is Kind.VIDEO


def test_nothing_but_relays_is_told() -> None:
    passed = relayed_description_untrusted(description(AUDIO, VIDEO), is_own)
    for address in (*HOME, "203.0.113.99", "55123", "55124"):
        assert address not in passed
    candidates = re.findall(r"a=candidate:.*", passed)
    assert (
        candidates
        == [
            "a=candidate:3 1 udp 33562367 198.51.100.7 50123 typ relay raddr 0.0.0.0 rport 9 "
            "generation 0 ufrag EsAw\r"
        ]
        * 2
    )
    for kept in ("a=ice-ufrag:EsAw", "a=fingerprint:sha-256 49:66:12:17", "a=sendrecv"):
        assert passed.count(f"{kept}\r\n") == 2
    assert passed.startswith("v=0\r\no=- 4611731400430051336 2 IN IP4 0.0.0.0\r\n")
    assert passed.count("m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\n") == 1
    assert relayed_description_untrusted(passed, is_own) == passed
    assert kind_of_untrusted(passed) is Kind.VIDEO


@pytest.mark.parametrize(
    "line",
    [
        "a=candidate :1 1 udp 2122260223 192.168.1.9 55123 typ host",
        "a=candidate 1 1 udp 2122260223 192.168.1.9 55123 typ host",
        "a=candidate:",
        "a=remote-candidates 1 192.168.1.9 55123",
        "a=rtcp 55123 IN IP4 192.168.1.9",
    ],
)
def test_a_name_that_ends_in_another_way_gives_no_address_away(line: str) -> None:
    passed = relayed_description_untrusted(description(AUDIO, f"{line}\r\n"), is_own)
    assert "192.168.1.9" not in passed
    assert "a=candidate:\r\n" not in passed
    assert "a=rtcp-mux" in relayed_description_untrusted(description("a=rtcp-mux\r\n"), is_own)


def test_a_section_that_is_refused_stays_refused() -> None:
    refused = description(AUDIO, section("video", "sendrecv", 0))
    passed = relayed_description_untrusted(refused, is_own)
    assert "m=video 0 " in passed
    assert kind_of_untrusted(passed) is Kind.VOICE


@pytest.mark.parametrize("candidate", CANDIDATES)
def test_other_candidates_do_not_pass(candidate: str) -> None:
    assert relayed_candidate_untrusted(candidate, is_own) is None


@pytest.mark.parametrize(
    ("candidate", "passed"),
    [
        ("", ""),
        (
            "candidate:1 1 UDP 1 2001:DB8::7 50000 typ relay raddr fd00::9 rport 5",
            "candidate:1 1 UDP 1 2001:db8::7 50000 typ relay raddr :: rport 9",
        ),
        (
            "candidate:1 1 tcp 1 198.51.100.7 50000 typ relay",
            "candidate:1 1 tcp 1 198.51.100.7 50000 typ relay raddr 0.0.0.0 rport 9",
        ),
        ("candidate:1 1 udp 1 198.51.100.7 70000 typ relay", None),
        ("candidate:1 1 udp 1 198.51.100.7 50000 typ host", None),
        ("candidate:1 1 udp 1 198.51.100.07 50000 typ relay", None),
        ("candidate:1 1 udp 1 198.51.100.7 50000 typ relay raddr", None),
        ("candidate:1 1 udp 1 198.51.100.7 50000 typ relay\r\na=x", None),
        ("candidate:1 1 udp 1 ::ffff:198.51.100.7 50000 typ relay", None),
        ("x" * CANDIDATE_MAXIMUM_BYTES, None),
    ],
)
def test_candidates(candidate: str, passed: str | None) -> None:
    assert relayed_candidate_untrusted(candidate, is_own) == passed


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "bad-description"),
        ("v=1\r\n", "bad-description"),
        ("v=0\r\nnothing\r\n", "bad-description"),
        ("v=0\r\nm=audio x RTP 1\r\n", "bad-description"),
        ("v=0\r\nm=audio 9 RTP\0 1\r\n", "bad-description"),
        ("v=0\r\n" + "m=audio 9 RTP 1\r\n" * 65, "bad-description"),
        ("v=0\r\n" + "a=x\r\n" * 4_096, "too-large"),
        ("v=0\r\na=" + "x" * DESCRIPTION_MAXIMUM_BYTES, "too-large"),
    ],
)
def test_what_is_no_description_is_refused(text: str, code: str) -> None:
    with pytest.raises(SignalingError) as caught:
        kind_of_untrusted(text)
    assert caught.value.code == code
    if "65" not in str(len(text)) and text.count("m=") < 65:
        with pytest.raises(SignalingError):
            relayed_description_untrusted(text, is_own)


def test_a_candidate_that_is_too_long_is_refused() -> None:
    with pytest.raises(SignalingError, match="bytes at most"):
        relayed_candidate_untrusted("x" * (CANDIDATE_MAXIMUM_BYTES + 1), is_own)


ADDRESS = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}|[0-9a-f]{0,4}:(?::?[0-9a-f]{1,4}){2,7}", re.I)


@settings(max_examples=300)
@given(
    st.lists(
        st.one_of(
            st.sampled_from([AUDIO, VIDEO, *(f"a={one}\r\n" for one in (*CANDIDATES, RELAY))]),
            st.builds("{}={}\r\n".format, st.sampled_from("acmobt"), st.text(max_size=60)),
            st.sampled_from(
                [
                    "c=IN IP4 192.168.1.9/127\r\n",
                    "c=IN IP6 fd00::9\r\n",
                    "a=rtcp:1 IN IP6 fd00::9\n",
                ]
            ),
        ),
        max_size=12,
    )
)
def test_whatever_comes_is_refused_or_names_relays_alone(parts: list[str]) -> None:
    try:
        passed = relayed_description_untrusted(description(*parts), is_own)
    except SignalingError:
        return
    for line in passed.split("\r\n"):
        if line.startswith(("c=", "o=", "a=candidate:", "a=rtcp:", "m=")):
            for found in ADDRESS.findall(line):
                if line.startswith("m="):
                    continue
                assert ip_address(found).packed in RELAYS or int(ip_address(found)) == 0, line
    assert relayed_description_untrusted(passed, is_own) == passed


@given(st.text(max_size=400))
def test_any_text(text: str) -> None:
    for read in (
        lambda: kind_of_untrusted(text),
        lambda: kind_of_untrusted("v=0\n" + text),
        lambda: relayed_description_untrusted("v=0\n" + text, is_own),
        lambda: relayed_candidate_untrusted(text, is_own),
    ):
        # Anything else that is raised fails the test.
        with contextlib.suppress(SignalingError):
            read()


def test_what_others_write_is_read() -> None:
    """aiortc's own offers and answers."""
    import asyncio

    async def talk() -> tuple[str, str]:
        one, other = RTCPeerConnection(), RTCPeerConnection()
        one.addTransceiver("audio")
        one.addTransceiver("video")
        await one.setLocalDescription(await one.createOffer())
        await other.setRemoteDescription(one.localDescription)
        await other.setLocalDescription(await other.createAnswer())
        found = one.localDescription.sdp, other.localDescription.sdp
        await one.close()
        await other.close()
        return found

    offer, answer = asyncio.run(talk())
    assert kind_of_untrusted(offer) is Kind.VIDEO
    for text in (offer, answer):
        passed = relayed_description_untrusted(text, is_own)
        assert "a=candidate" in text
        assert "a=candidate" not in passed
        assert passed.count("m=") == text.count("m=") == 2
        assert "a=fingerprint:" in passed
