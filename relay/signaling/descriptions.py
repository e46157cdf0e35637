"""Session descriptions and candidates that pass: what they say of media, and what they give away.

A call's kind is read from what its ends have agreed on, never from what a client says of it. Where
media is to flow through relays alone, nothing that passes names an address but a relay's: what is
no candidate of this node's own relays is taken out, related addresses are blanked, and so are
connection lines (RFC 8866, RFC 8839 section 5).

Nothing is kept here: text comes in, and other text goes out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from enum import StrEnum
from ipaddress import ip_address
from typing import Final, NamedTuple

from core.errors import SignalingError

DESCRIPTION_MAXIMUM_BYTES: Final = 65_536
CANDIDATE_MAXIMUM_BYTES: Final = 1_024
SECTIONS_MAXIMUM: Final = 64
LINES_MAXIMUM: Final = 4_096

BLANK_PORT: Final = 9
"""The discard port: what stands where no address is told (RFC 8839 section 4.2.1.2)."""

IsOwn = Callable[[bytes], bool]
"""Whether a packed IP address is one that this node relays from."""

_CANDIDATE = re.compile(
    r"candidate:(?P<foundation>[A-Za-z0-9+/]{1,32}) (?P<component>[0-9]{1,5}) "
    r"(?P<transport>[A-Za-z]{3,8}) (?P<priority>[0-9]{1,10}) (?P<address>[0-9A-Fa-f.:]{2,45}) "
    r"(?P<port>[0-9]{1,5}) typ relay(?P<more>(?: [!-~]+ [!-~]+)*)"
)
_KEPT_EXTENSIONS = frozenset({"generation", "ufrag"})
"""Of what may follow a candidate; others tell of networks at home."""
_FLOWING = frozenset({"a=sendrecv", "a=sendonly", "a=recvonly"})
_FAMILIES = {"IP4": "0.0.0.0", "IP6": "::"}  # noqa: S104
_TEXT = re.compile(r"v=0\n(?:[a-z]=[^\r\n\0]*\n)*")
_TELLING = re.compile(r"^(?:m=|a=(?:inactive|sendrecv|sendonly|recvonly|bundle-only))[^\n]*", re.M)
"""The lines that say what flows: few of some hundred."""
_REWRITTEN = re.compile(
    r"^(?:a=candidate|a=remote-candidates|a=rtcp(?![0-9A-Za-z-])|[cmo]=)[^\n]*\n", re.M
)
"""The lines that may name an address. How a browser ends an attribute's name is its own affair."""
_NAME_END = re.compile("[: ]")
"""Browsers take an attribute by its name, whatever stands behind it."""
_MEDIA = re.compile(r"m=([a-z]{1,16}) ([0-9]{1,5})(/[0-9]{1,5})? ([!-~]+(?: [!-~]+)*)")
_ORIGIN_WORDS = 6
"""User name, session, version, network, family, address (RFC 8866 section 5.2)."""
_CAMERA_SECTIONS = 2
"""Sound comes first and a camera second; a section of video behind them is a screen."""


class Kind(StrEnum):
    """What is paid for."""

    VOICE = "voice"
    VIDEO = "video"
    SCREEN = "screen"


class _Section(NamedTuple):
    media: str
    is_active: bool


def kind_of_untrusted(description: str) -> Kind:
    """What flows once this answer is accepted: a screen, else video, else sound.

    A section counts where its port isn't 0 and its direction isn't `inactive`; an answer refuses by
    either (RFC 8829 section 5.3.1, RFC 3264 section 6). Where browsers might read another direction
    than another reader, what flows is the most that any of them would have flow: of several in a
    section, one that is not `inactive` is enough, and what a description says before its first
    section, which they pass over, refuses nothing.

    Raises:
        SignalingError: it is no session description.
    """
    kind = Kind.VOICE
    for number, section in enumerate(_sections(_text_untrusted(description))):
        if section.media == "video" and section.is_active:
            if number >= _CAMERA_SECTIONS:
                return Kind.SCREEN
            kind = Kind.VIDEO
    return kind


def relayed_description_untrusted(description: str, is_own: IsOwn) -> str:
    """The description without any address that isn't a relay's of this node.

    Raises:
        SignalingError: it is no session description.
    """
    text = _text_untrusted(description)
    passed = _REWRITTEN.sub(lambda match: _relayed_line(match[0], is_own), text)
    return passed.replace("\n", "\r\n")


def relayed_candidate_untrusted(candidate: str, is_own: IsOwn) -> str | None:
    """A candidate as RTCIceCandidate has it, its related address blanked; None where it isn't of
    one of this node's relays. The empty one, which says that no more will come, stays.

    Raises:
        SignalingError: it is too long.
    """
    if len(candidate) > CANDIDATE_MAXIMUM_BYTES:
        raise SignalingError(
            "too-large", f"a candidate has {CANDIDATE_MAXIMUM_BYTES} bytes at most"
        )
    if not candidate:
        return ""
    match = _CANDIDATE.fullmatch(candidate.removeprefix("a="))
    if match is None or int(match["port"]) > 65_535:
        return None
    try:
        address = ip_address(match["address"])
    except ValueError:
        return None
    if not is_own(address.packed):
        return None
    words = match["more"].split()
    kept = [
        f" {name} {value}"
        for name, value in zip(words[::2], words[1::2], strict=True)
        if name in _KEPT_EXTENSIONS
    ]
    blank = _FAMILIES[f"IP{address.version}"]
    return (
        f"candidate:{match['foundation']} {match['component']} {match['transport']} "
        f"{match['priority']} {address} {match['port']} typ relay raddr {blank} rport {BLANK_PORT}"
        + "".join(kept)
    )


def _text_untrusted(description: str) -> str:
    """The description with lines that end as Python's do, the last one too.

    Raises:
        SignalingError: it is too long, or a line is none.
    """
    if len(description.encode(errors="surrogatepass")) > DESCRIPTION_MAXIMUM_BYTES:
        raise SignalingError(
            "too-large", f"a description has {DESCRIPTION_MAXIMUM_BYTES} bytes at most"
        )
    text = description.replace("\r\n", "\n").removesuffix("\n") + "\n"
    if text.count("\n") > LINES_MAXIMUM:
        raise SignalingError("too-large", f"a description has {LINES_MAXIMUM} lines at most")
    if _TEXT.fullmatch(text) is None:
        raise SignalingError("bad-description", "this is no session description")
    return text


def _sections(text: str) -> Iterator[_Section]:
    """Its media sections, in their order.

    Raises:
        SignalingError: there are too many, or one is none.
    """
    media, port, is_bundled, is_inactive, flows, count = "", 0, False, False, False, 0
    for line in [*_TELLING.findall(text), "m="]:
        if line.startswith("m="):
            if media:
                is_refused = is_inactive and not flows
                yield _Section(media, (port != 0 or is_bundled) and not is_refused)
            if line == "m=":
                return
            match = _MEDIA.fullmatch(line)
            count += 1
            if match is None or count > SECTIONS_MAXIMUM:
                raise SignalingError("bad-description", "a media section can't be read")
            media, port = match[1], int(match[2])
            is_bundled = is_inactive = flows = False
        elif line == "a=inactive":
            is_inactive = True
        elif (name := _NAME_END.split(line, 1)[0]) in _FLOWING:
            flows = True
        elif name == "a=bundle-only":
            # RFC 9143 section 6: port 0, and yet not refused.
            is_bundled = True


def _relayed_line(line: str, is_own: IsOwn) -> str:
    """One of `_REWRITTEN` as it may pass, with its end; empty where it may not."""
    if line.startswith("a=candidate"):
        candidate = None
        if len(line) <= CANDIDATE_MAXIMUM_BYTES:
            candidate = relayed_candidate_untrusted(line[2:-1], is_own)
        # An empty one says nothing here.
        return f"a={candidate}\n" if candidate else ""
    if line.startswith("a=remote-candidates"):
        return ""
    if line.startswith("a=rtcp"):
        return f"a=rtcp:{BLANK_PORT} IN IP4 {_FAMILIES['IP4']}\n"
    if line.startswith("c="):
        return f"c=IN IP4 {_FAMILIES['IP4']}\n"
    if line.startswith("o="):
        words = line[:-1].split(" ")
        if len(words) != _ORIGIN_WORDS:
            raise SignalingError("bad-description", "who has made the description can't be read")
        return " ".join([*words[:4], "IP4", _FAMILIES["IP4"]]) + "\n"
    match = _MEDIA.fullmatch(line[:-1])
    if match is None:
        raise SignalingError("bad-description", "a media section can't be read")
    port = BLANK_PORT if int(match[2]) else 0
    return f"m={match[1]} {port} {match[4]}\n"
