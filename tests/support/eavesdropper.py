"""Somebody in the middle who does all that a hostile node can: ends DTLS towards both pages, under
fingerprints of its own, and shakes hands with each as the page's protocol has it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from typing import Any

from aiortc import RTCDataChannel, RTCPeerConnection, RTCSessionDescription
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from relay.signaling.messages import Answer, Description, Passed, Signal
from tests.support.signaling_server import SignalingServer

LABEL = "eavesdropper"
_FINGERPRINT = re.compile(r"a=fingerprint:sha-256 ([0-9A-Fa-f:]+)")
_OTHERS = re.compile(r"a=fingerprint:sha-(?:384|512) [^\r\n]*\r?\n")
_ED25519 = b"\x01"


class Eavesdropper:
    """Between the peers "1" and "2" of a room; set as `SignalingServer.forge`."""

    def __init__(self, server: SignalingServer, place: str) -> None:
        self._server = server
        self._place = place
        self._sides: dict[str, _Side] = {}

    async def forge(self, sender: str, message: Signal | Answer) -> bool:
        """Take a signal, and say something else to both; that it was taken."""
        description = message.description
        if description is None:
            return True  # Candidates are in the descriptions that this side gathers.
        if description.type == "offer":
            for peer in "12":
                self._sides[peer] = _Side(peer, self._place)
            near, far = self._sides[sender], self._sides["2" if sender == "1" else "1"]
            await self._tell(sender, message.connection, await near.answer(description))
            await self._tell(far.peer, "", await far.offer())
        else:
            await self._sides[sender].accept(description)
        return True

    async def _tell(self, peer: str, connection: str, description: Description) -> None:
        name = f"{LABEL}-{connection.split('-')[0]}" if connection else LABEL
        sender = "2" if peer == "1" else "1"
        await self._server.tell(peer, Passed(sender, name, description))

    async def close(self) -> None:
        """End both connections."""
        for side in self._sides.values():
            await side.connection.close()


class _Side:
    """The connection to one of the pages, which believes it to be the other one's."""

    def __init__(self, peer: str, place: str) -> None:
        self.peer = peer
        self.connection = RTCPeerConnection()
        self._place = place
        self._role = "b" if peer == "1" else "a"
        self._identity = Ed25519PrivateKey.generate()
        self._control: RTCDataChannel = self._channels()[0]
        self._control.on("open", self._commit)
        self._control.on("message", self._receive)

    def _channels(self) -> list[RTCDataChannel]:
        names = ("control", "chat", "files")
        return [
            self.connection.createDataChannel(name, negotiated=True, id=number)
            for number, name in enumerate(names)
        ]

    async def answer(self, offer: Description) -> Description:
        await self.connection.setRemoteDescription(RTCSessionDescription(offer.sdp, "offer"))
        await self.connection.setLocalDescription(await self.connection.createAnswer())
        return self._description("answer")

    async def offer(self) -> Description:
        for kind in ("audio", "video", "video"):
            self.connection.addTransceiver(kind, direction="recvonly")
        await self.connection.setLocalDescription(await self.connection.createOffer())
        return self._description("offer")

    async def accept(self, answer: Description) -> None:
        await self.connection.setRemoteDescription(RTCSessionDescription(answer.sdp, "answer"))

    def _description(self, kind: Any) -> Description:
        return Description(kind, _OTHERS.sub("", self.connection.localDescription.sdp))

    def _commit(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1()).public_key()
        ephemeral = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        written = _FINGERPRINT.search(self.connection.localDescription.sdp)
        assert written is not None
        fingerprint = bytes.fromhex(written[1].replace(":", ""))
        fields = (b"montana identity 1", self._role.encode(), fingerprint, ephemeral)
        signed = b"".join(
            len(field).to_bytes(4, "big") + field for field in (*fields, self._place.encode())
        )
        public = self._identity.public_key().public_bytes_raw()
        signature = self._identity.sign(signed)
        self._reveal = os.urandom(32) + ephemeral + _ED25519 + public + signature
        commit = hashlib.sha256(b"montana commit 1" + self._role.encode() + self._reveal).digest()
        self._say({"type": "commit", "commit": _text(commit)})

    def _receive(self, data: str) -> None:
        if json.loads(data)["type"] == "commit":
            self._say({"type": "reveal", "reveal": _text(self._reveal)})

    def _say(self, message: dict[str, str]) -> None:
        self._control.send(json.dumps(message))


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
