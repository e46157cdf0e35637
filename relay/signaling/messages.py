"""What a page and the node say to each other: JSON objects with a `type`, one a WebSocket message.

The node greets with `Welcome`. The first message of a page enters something (`CreateRoom`,
`JoinRoom`, `OpenCall`, `SignIn`, or `Resume` after a lost connection) and opens or takes up a
session; what follows belongs to it. Each message of a page has a `seq`: it grows by one from each
to the next, and the first of a connection has a larger one than any that the session has had, so
that nothing which was recorded can be said again. What answers a message names it in `re`.

Two peers talk by `Signal`, which the node passes on; it keeps nothing of it. In a pair the peer
whose id is smaller makes the first offer and is the impolite one of perfect negotiation; in a call
that is the caller. An offer has four sections in this order: sound, camera, screen, data.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from core.errors import SignalingError

PROTOCOL_VERSION: Final = 1
MESSAGE_MAXIMUM_BYTES: Final = 128 * 1024
"""A description and what is around it."""
CANDIDATES_MAXIMUM: Final = 32
"""Of one message."""
NAME_MAXIMUM_CHARACTERS: Final = 64

Sequence = Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)]
Name = Annotated[str, msgspec.Meta(max_length=NAME_MAXIMUM_CHARACTERS)]
"""What a person wants to be called; shown as text and nothing else."""
PeerId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-z]{1,16}\Z")]
Secret = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{16,128}\Z")]
CallId = Annotated[str, msgspec.Meta(pattern=r"^CALL-[A-Z2-7]{8}\Z")]
InitDataText = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
"""What Telegram has signed for a Mini App, as it is in `Telegram.WebApp.initData`."""
AddressText = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
KeyText = Annotated[str, msgspec.Meta(pattern=r"^[a-z2-7]{52}\Z")]
"""An Ed25519 public key in base32 without padding, as in the address `key:...`."""
Signature = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{86}\Z")]
"""64 bytes in base64url without padding."""
KindText = Literal["voice", "video", "screen"]
CallStatus = Literal["pending", "ringing", "active", "ended", "missed", "rejected", "failed"]


# ------------------------------------------------------------ parts of messages


class Description(msgspec.Struct, frozen=True):
    """As RTCSessionDescription has it."""

    type: Literal["offer", "answer"]
    sdp: Annotated[str, msgspec.Meta(max_length=65_536)]


class Candidate(msgspec.Struct, frozen=True, rename="camel"):
    """As RTCIceCandidate.toJSON() has it."""

    candidate: Annotated[str, msgspec.Meta(max_length=1_024)]
    sdp_mid: Annotated[str, msgspec.Meta(max_length=32)] | None = None
    sdp_m_line_index: Annotated[int, msgspec.Meta(ge=0, le=64)] | None = None
    username_fragment: Annotated[str, msgspec.Meta(max_length=256)] | None = None


class AccountProof(msgspec.Struct, frozen=True):
    """Who has this key. `signature` is over the UTF-8 bytes of three lines, without an end of the
    last: ``montana sign-in 1``, the page's origin, and `Welcome.challenge`."""

    key: KeyText
    signature: Signature


class PeerView(msgspec.Struct, frozen=True):
    """Somebody else in a room or call. `away`: the connection is lost, the place is kept."""

    id: PeerId
    name: str
    away: bool = False


class RoomView(msgspec.Struct, frozen=True):
    """A room as everybody in it sees it.

    Attributes:
        host: the id of who may admit, kick, lock and invite.
        pays: the node within its quota, or the host by the minute.
        knocking: who waits to be let in; told to the host alone.
    """

    id: str
    host: PeerId
    locked: bool
    lobby: bool
    people_maximum: int
    pays: Literal["node", "host"]
    knocking: list[PeerView] = []


class CallView(msgspec.Struct, frozen=True):
    """A call as one of its two sides sees it.

    Attributes:
        role: who one is.
        other: the other's address, where one is known.
        kind: as the last answer that has passed says.
        price_second: Ɉ as it is written.
        seconds: charged until now.
        spent, left, left_s: Ɉ, and for how many seconds at the present price there is some; None
            for the callee, who pays nothing.
        relayed: whether media may flow through the node's relays alone.
    """

    id: str
    role: Literal["caller", "callee"]
    other: str
    status: CallStatus
    kind: KindText
    price_second: str
    seconds: int = 0
    spent: str | None = None
    left: str | None = None
    left_s: int | None = None
    relayed: bool = True


class IceServer(msgspec.Struct, frozen=True):
    """As RTCPeerConnection takes it."""

    urls: list[str]
    username: str
    credential: str


class CallItem(msgspec.Struct, frozen=True):
    """A call that was, in somebody's list. Times are seconds since 1970, 0 for never."""

    id: str
    other: str
    outgoing: bool
    status: CallStatus
    kind: KindText
    created_s: int
    started_s: int
    ended_s: int
    seconds: int
    cost: str


# ------------------------------------------------------------ what a page says


class CreateRoom(msgspec.Struct, frozen=True, tag="create"):
    """Make a room and enter it as its host. `token`: where the node asks for one; `proof`: where
    hosts pay."""

    seq: Sequence
    name: Name = ""
    token: Annotated[str, msgspec.Meta(max_length=256)] = ""
    lobby: bool = False
    relay_only: bool = False
    proof: AccountProof | None = None


class JoinRoom(msgspec.Struct, frozen=True, tag="join"):
    """Enter a room by an invitation."""

    seq: Sequence
    invitation: Secret
    name: Name = ""
    relay_only: bool = False


class OpenCall(msgspec.Struct, frozen=True, tag="open_call"):
    """Come to a call as the side to which the secret belongs, or without one as that of the user of
    Telegram for whom `init_data` was made. Who comes a second time takes the place of their first
    page."""

    seq: Sequence
    call: CallId
    secret: Secret | None = None
    relay_only: bool = False
    init_data: InitDataText | None = None


class SignIn(msgspec.Struct, frozen=True, tag="sign_in"):
    """Use one's account, which is made when it is not there: that of a key, or of the user of
    Telegram for whom `init_data` was made."""

    seq: Sequence
    proof: AccountProof | None = None
    init_data: InitDataText | None = None


class Resume(msgspec.Struct, frozen=True, tag="resume"):
    """Take a session up after its connection was lost. `fresh`: the page was loaded anew and has
    no connection to anybody. `name`: what one is called, which a node that was started anew has
    not kept; None where it is as it was."""

    seq: Sequence
    session: Secret
    fresh: bool = False
    name: Name | None = None


class Signal(msgspec.Struct, frozen=True, tag="signal", omit_defaults=True):
    """To another peer of the room or call: a description, candidates, or both.

    `connection` names the sender's RTCPeerConnection, so that what was meant for an earlier one is
    told apart.
    """

    seq: Sequence
    to: PeerId
    connection: Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z_-]{1,32}\Z")]
    description: Description | None = None
    candidates: Annotated[list[Candidate], msgspec.Meta(max_length=CANDIDATES_MAXIMUM)] = []


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """The callee accepts the call; the description answers the caller's offer."""

    seq: Sequence
    connection: Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z_-]{1,32}\Z")]
    description: Description


class Connected(msgspec.Struct, frozen=True, tag="connected"):
    """In a call: this side's media connection stands. Charging begins when both say so."""

    seq: Sequence


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """In a call whose media flows directly: sound or a picture came in within the last two
    seconds. To be sent each second."""

    seq: Sequence


class HangUp(msgspec.Struct, frozen=True, tag="hang_up"):
    """Leave for good. A callee who has not answered rejects the call; a caller takes it back."""

    seq: Sequence


class Admit(msgspec.Struct, frozen=True, tag="admit"):
    """The host lets somebody in who knocks."""

    seq: Sequence
    peer: PeerId


class Deny(msgspec.Struct, frozen=True, tag="deny"):
    """The host does not."""

    seq: Sequence
    peer: PeerId


class Kick(msgspec.Struct, frozen=True, tag="kick"):
    """The host has somebody leave, who can't come back by the same invitation."""

    seq: Sequence
    peer: PeerId


class SetRoom(msgspec.Struct, frozen=True, tag="set_room"):
    """The host locks the room, or has those who come wait to be let in."""

    seq: Sequence
    locked: bool
    lobby: bool


class Invite(msgspec.Struct, frozen=True, tag="invite"):
    """The host makes an invitation; answered by `Invitation`. `uses` None for many."""

    seq: Sequence
    uses: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None
    ttl_s: Annotated[int, msgspec.Meta(ge=60, le=30 * 24 * 3600)] = 24 * 3600


class RefreshIce(msgspec.Struct, frozen=True, tag="refresh_ice"):
    """Ask for new TURN credentials; answered by `Ice`."""

    seq: Sequence


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    """Whether the connection lives; answered by `Pong`."""

    seq: Sequence


class AskAccount(msgspec.Struct, frozen=True, tag="account"):
    """What one has; answered by `Account`."""

    seq: Sequence


class AskHistory(msgspec.Struct, frozen=True, tag="history"):
    """One's history, the newest first; answered by `History`. `before`: its `next`."""

    seq: Sequence
    before: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 50


class AskCalls(msgspec.Struct, frozen=True, tag="calls"):
    """One's calls, the newest first; answered by `Calls`. `before`: its `next`."""

    seq: Sequence
    before: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 50


class Redeem(msgspec.Struct, frozen=True, tag="redeem"):
    """Pay a voucher in; answered by `Account`."""

    seq: Sequence
    code: Annotated[str, msgspec.Meta(max_length=64)]


class StartCall(msgspec.Struct, frozen=True, tag="call"):
    """Call an address, or whoever has the link where `to` is None; answered by `Calling`."""

    seq: Sequence
    to: AddressText | None
    kind: KindText = "voice"


class Decline(msgspec.Struct, frozen=True, tag="decline"):
    """Reject a call that rings, without opening it."""

    seq: Sequence
    call: CallId


class SetBlocked(msgspec.Struct, frozen=True, tag="set_blocked"):
    """Have an address not ring any more, or again; answered by `Blocked`."""

    seq: Sequence
    address: AddressText
    blocked: bool


class AskBlocked(msgspec.Struct, frozen=True, tag="blocked"):
    """Who is blocked; answered by `Blocked`."""

    seq: Sequence


Entering = CreateRoom | JoinRoom | OpenCall | SignIn | Resume
"""What the first message of a connection is."""
PageMessage = (
    CreateRoom
    | JoinRoom
    | OpenCall
    | SignIn
    | Resume
    | Signal
    | Answer
    | Connected
    | Beat
    | HangUp
    | Admit
    | Deny
    | Kick
    | SetRoom
    | Invite
    | RefreshIce
    | Ping
    | AskAccount
    | AskHistory
    | AskCalls
    | Redeem
    | StartCall
    | Decline
    | SetBlocked
    | AskBlocked
)


# ------------------------------------------------------------ what the node says


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """The node's greeting.

    Attributes:
        versions: of this protocol that it speaks.
        challenge: for `AccountProof`, of this connection alone.
        rooms: who pays for them: ``free`` the node, ``host`` the host.
        token_needed: whether making a room takes the operator's token.
    """

    versions: list[int]
    challenge: str
    rooms: Literal["host", "free"]
    token_needed: bool
    relay_only: bool


class Entered(msgspec.Struct, frozen=True, tag="entered"):
    """One is in a room or call: all that there is to know. Said again after `Resume`.

    Attributes:
        re: what has asked; None for who was let in.
        session: the secret that `Resume` takes.
        you: one's own id.
        peers: the others.
        invitation: of a room that was made just now, for others to come; good for many.
        secret: of the side of a call that one has come to without it.
    """

    re: int | None
    session: str
    you: PeerId
    peers: list[PeerView]
    ice: list[IceServer]
    ice_ttl_s: int
    relay_only: bool
    room: RoomView | None = None
    call: CallView | None = None
    invitation: str | None = None
    secret: str | None = None


class Waiting(msgspec.Struct, frozen=True, tag="waiting"):
    """One has knocked and is to be let in by the host; then `Entered` comes, or `Ended`."""

    re: int | None
    session: str


class SignedIn(msgspec.Struct, frozen=True, tag="signed_in"):
    """One's account may be used."""

    re: int | None
    session: str
    address: str


class Passed(msgspec.Struct, frozen=True, tag="signal", omit_defaults=True):
    """A `Signal` of another's."""

    sender: PeerId = msgspec.field(name="from")
    connection: str
    description: Description | None = None
    candidates: list[Candidate] = []


class PeerJoined(msgspec.Struct, frozen=True, tag="peer_joined"):
    """Somebody has come."""

    peer: PeerView


class PeerLeft(msgspec.Struct, frozen=True, tag="peer_left"):
    """Somebody has gone: ``left``, ``lost`` or ``kicked``."""

    peer: PeerId
    reason: str


class PeerAway(msgspec.Struct, frozen=True, tag="peer_away"):
    """Somebody's connection to the node is lost; media may flow on."""

    peer: PeerId


class PeerBack(msgspec.Struct, frozen=True, tag="peer_back"):
    """They are back; `fresh`: with a page that has no connection to anybody. `name` as they have
    said it now."""

    peer: PeerId
    fresh: bool
    name: str = ""


class Knocking(msgspec.Struct, frozen=True, tag="knocking"):
    """To the host: somebody wants to come in."""

    peer: PeerView


class KnockOver(msgspec.Struct, frozen=True, tag="knock_over"):
    """To the host: they wait no more."""

    peer: PeerId


class RoomChanged(msgspec.Struct, frozen=True, tag="room"):
    """The room is another now: host, lock, lobby."""

    room: RoomView


class Invitation(msgspec.Struct, frozen=True, tag="invitation"):
    """An invitation; it stands in the fragment of the room's URL. Without being asked (`re` None)
    in place of one that has ended with a kick."""

    re: int | None
    invitation: str
    uses: int | None
    ttl_s: int


class CallChanged(msgspec.Struct, frozen=True, tag="call"):
    """The call is another now, or a second of it is over."""

    call: CallView


class Warned(msgspec.Struct, frozen=True, tag="warning"):
    """The payer's money lasts for so many seconds more: 60, then 10."""

    left_s: int


class Receipt(msgspec.Struct, frozen=True, tag="receipt"):
    """What a call has come to. `cost` and `balance` are None for the callee."""

    call: CallItem
    reason: str
    cost: str | None
    balance: str | None


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """One's session is over. `reason`: ``left``, ``kicked``, ``denied``, ``locked``, ``replaced``,
    ``room-closed``, ``no-money``, ``quota``, ``hung-up``, ``rejected``, ``missed``, ``failed``,
    ``silence``, ``account-frozen``, ``account-closed``."""

    reason: str


class Ice(msgspec.Struct, frozen=True, tag="ice"):
    """New TURN credentials, for `RTCPeerConnection.setConfiguration`."""

    re: int | None
    ice: list[IceServer]
    ice_ttl_s: int


class Pong(msgspec.Struct, frozen=True, tag="pong"):
    """The connection lives."""

    re: int


class Account(msgspec.Struct, frozen=True, tag="account"):
    """What one has, in Ɉ as they are written. Without being asked (`re` None) after a change."""

    re: int | None
    address: str
    number: int
    balance: str
    held: str
    available: str
    frozen: bool
    redeemed: str | None = None


class HistoryEntry(msgspec.Struct, frozen=True):
    """A line of one's history. `amount` has its sign; `kind`: transfer, session, ..."""

    id: str
    time: str
    kind: str
    amount: str
    currency: str
    other: str
    detail: str
    seconds: int | None = None


class History(msgspec.Struct, frozen=True, tag="history"):
    """A page of one's history."""

    re: int
    items: list[HistoryEntry]
    next: int | None


class Calls(msgspec.Struct, frozen=True, tag="calls"):
    """A page of one's calls."""

    re: int
    items: list[CallItem]
    next: str | None


class Calling(msgspec.Struct, frozen=True, tag="calling"):
    """A call that was asked for: the caller's link, ``/call?id=CALL-...#secret``, and the callee's
    where nobody was named."""

    re: int
    call: str
    secret: str
    callee_secret: str | None


class Ringing(msgspec.Struct, frozen=True, tag="ringing"):
    """Somebody calls: ``/call?id=CALL-...#secret`` opens it."""

    call: str
    secret: str
    other: str
    kind: KindText


class RingOver(msgspec.Struct, frozen=True, tag="ring_over"):
    """It rings no more."""

    call: str
    status: CallStatus


class Blocked(msgspec.Struct, frozen=True, tag="blocked"):
    """Who does not ring."""

    re: int
    addresses: list[str]


class Error(msgspec.Struct, frozen=True, tag="error"):
    """A message was refused and has had no effect.

    `code`: ``malformed``, ``too-large``, ``unknown-type``, ``replayed``, ``out-of-order``,
    ``too-many``, ``wrong-state``, ``no-peer``, ``no-call``, ``not-host``, ``bad-description``,
    ``bad-secret``, ``expired``, ``used-up``, ``full``, ``locked``, ``not-resumable``,
    ``token-needed``, ``proof-needed``, ``bad-proof``, ``stale-proof``, ``no-money``, ``quota``,
    ``busy``, ``blocked``, ``no-account``, ``no-line``, ``no-voucher``, ``bad-voucher``,
    ``voucher-redeemed``, ``unavailable``. `message` is a sentence in English; `values` are what
    stands in its places in other languages. `last` is the session's last `seq`, with ``replayed``
    and ``out-of-order``.
    """

    re: int | None
    code: str
    message: str
    values: dict[str, str] = {}
    last: int | None = None


NodeMessage = (
    Welcome
    | Entered
    | Waiting
    | SignedIn
    | Passed
    | PeerJoined
    | PeerLeft
    | PeerAway
    | PeerBack
    | Knocking
    | KnockOver
    | RoomChanged
    | Invitation
    | CallChanged
    | Warned
    | Receipt
    | Ended
    | Ice
    | Pong
    | Account
    | History
    | Calls
    | Calling
    | Ringing
    | RingOver
    | Blocked
    | Error
)

_decoder: msgspec.json.Decoder[PageMessage] = msgspec.json.Decoder(PageMessage)
_encoder = msgspec.json.Encoder()


class _Head(msgspec.Struct):
    type: str = ""
    seq: int | None = None


_head_decoder = msgspec.json.Decoder(_Head)
_TYPES = frozenset(one.__struct_config__.tag for one in PageMessage.__args__)


def decode_untrusted(data: bytes) -> PageMessage:
    """A page's message.

    Raises:
        SignalingError: ``malformed``, ``unknown-type``, ``too-large``.
    """
    if len(data) > MESSAGE_MAXIMUM_BYTES:
        raise SignalingError("too-large", f"a message has {MESSAGE_MAXIMUM_BYTES} bytes at most")
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        try:
            kind = _head_decoder.decode(data).type
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            kind = ""
        if kind and kind not in _TYPES:
            raise SignalingError("unknown-type", "there is no such message") from error
        raise SignalingError("malformed", f"the message can't be read: {error}") from error


def encode(message: NodeMessage) -> bytes:
    """A message of the node's, as it is sent."""
    return _encoder.encode(message)
