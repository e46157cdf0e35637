"""aiortc, a WebRTC implementation, through a running node: audio and a data channel."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import pytest
from aiortc import (
    RTCConfiguration,
    RTCDataChannel,
    RTCIceServer,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import AudioStreamTrack

from tests.support.node import RunningNode, running_node

TIMEOUT_S = 40
MESSAGES = 50


@pytest.fixture(scope="module")
def node() -> Iterator[RunningNode]:
    with running_node() as running:
        yield running


def relayed_only(description: RTCSessionDescription) -> RTCSessionDescription:
    """Leave no candidate but those of the relay."""
    lines = [
        line
        for line in description.sdp.splitlines()
        if not line.startswith("a=candidate:") or " typ relay" in line
    ]
    assert any(" typ relay" in line for line in lines), description.sdp
    return RTCSessionDescription(sdp="\r\n".join(lines) + "\r\n", type=description.type)


def test_audio_and_data_pass_the_relay(node: RunningNode) -> None:
    made = node.credentials("frank")
    uri = next(uri for uri in made.uris if re.match(r"turn:127\.0\.0\.1:", uri))
    servers = [RTCIceServer(urls=uri, username=made.username, credential=made.password)]

    async def run() -> None:
        caller = RTCPeerConnection(RTCConfiguration(iceServers=servers))
        callee = RTCPeerConnection(RTCConfiguration(iceServers=servers))
        caller.addTrack(AudioStreamTrack())
        channel = caller.createDataChannel("check")
        opened, heard = asyncio.Event(), asyncio.Event()
        answers: asyncio.Queue[str] = asyncio.Queue()
        channel.on("open", lambda: opened.set())
        channel.on("message", answers.put_nowait)

        @callee.on("datachannel")
        def on_channel(far: RTCDataChannel) -> None:
            far.on("message", far.send)

        @callee.on("track")
        async def on_track(track: AudioStreamTrack) -> None:
            for _ in range(20):
                await track.recv()
            heard.set()

        await caller.setLocalDescription(await caller.createOffer())
        await callee.setRemoteDescription(relayed_only(caller.localDescription))
        await callee.setLocalDescription(await callee.createAnswer())
        await caller.setRemoteDescription(relayed_only(callee.localDescription))
        await opened.wait()
        await heard.wait()
        before = node.status()["packets"]["to_peer"]
        for number in range(MESSAGES):
            channel.send(f"message {number}")
            assert await answers.get() == f"message {number}"
        assert node.status()["packets"]["to_peer"] - before >= 2 * MESSAGES
        await asyncio.gather(caller.close(), callee.close())

    asyncio.run(asyncio.wait_for(run(), TIMEOUT_S))
