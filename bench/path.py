"""Where the load generator's packets go: one path for each direction of each client."""

from __future__ import annotations

from typing import NamedTuple

from core.stun.address import Address


class Path(NamedTuple):
    """One direction of traffic between two sockets of the generator.

    Attributes:
        send_fd: a non-blocking UDP socket that packets leave from.
        receive_fd: a non-blocking UDP socket where they must arrive.
        send_channel: wrap what is sent in ChannelData of this channel; 0 sends the payload bare.
        receive_channel: the channel of what arrives; 0 for a bare payload.
        destination: where to send; None for a connected `send_fd`.
        answers: the index of the path whose every packet is echoed on this one, at once and with
            its send time, so that the latency counted is a round trip. None for a path that
            starts traffic. An answer leaves from the socket where the answered path ends.
    """

    send_fd: int
    receive_fd: int
    send_channel: int = 0
    receive_channel: int = 0
    destination: Address | None = None
    answers: int | None = None
