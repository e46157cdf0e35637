"""What single fields of the socket's messages may hold."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

CREDENTIALS_TTL_MAXIMUM_S = 30 * 24 * 3600

ShortText = Annotated[str, msgspec.Meta(max_length=128)]
LongText = Annotated[str, msgspec.Meta(max_length=4096)]
"""What a person writes or reads: as much as the longest message of Telegram's."""
Link = Annotated[str, msgspec.Meta(max_length=2048)]
AccountName = Annotated[
    str, msgspec.Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x20\x7f#]+\Z")
]
"""An account, such as `user:alice`: no blanks, and no ``#``, which begins the call in a TURN
username."""
BridgeName = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9]{0,15}\Z")]
"""A bridge: telegram, twilio, gsm or webhook."""
CallName = Annotated[str, msgspec.Meta(pattern=r"^CALL-[A-Za-z0-9._-]{1,59}\Z")]
CallId = Annotated[str, msgspec.Meta(pattern=r"^CALL-[A-Z2-7]{8}\Z")]
"""A call that the node serves, as `CallLinkReply` names it."""
CallKind = Literal["voice", "video", "screen"]
ChainLink = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
EffectId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
"""Names an effect: what was done under it is not done again, but answered as the first time."""
FilePath = Annotated[str, msgspec.Meta(max_length=4096, pattern=r"^/[^\x00]*\Z")]
"""A file of the machine that the node runs on, from its root on."""
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
"""Since 1970, in UTC."""
PageLimit = Annotated[int, msgspec.Meta(ge=1, le=1000)]
Seconds = Annotated[int, msgspec.Meta(ge=1, le=CREDENTIALS_TTL_MAXIMUM_S)]
