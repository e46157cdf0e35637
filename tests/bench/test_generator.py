"""The load generator counts right: what a relay of ours does to packets is known exactly."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from bench.generator import Generator, bucket_starts_ns
from bench.path import Path
from bench.scenario import percentiles_us
from core.stun.address import Address

PAYLOAD_BYTES = 172
RATE = 1_000.0
"""So few in all that they fit any receive buffer, however late the relay's thread gets its turn."""
Treatment = Callable[[int, bytes], list[bytes]]
"""What becomes of the packet of this number, from 0."""


def udp() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("127.0.0.1", 0))
    made.setblocking(False)
    return made


@contextmanager
def relay(treatment: Treatment) -> Iterator[tuple[socket.socket, socket.socket, list[int]]]:
    """A sender and a receiver with a relay between them, and the relay's count of packets."""
    sender, receiver, middle = udp(), udp(), udp()
    sender.connect(middle.getsockname())
    seen = [0]
    target = receiver.getsockname()
    middle.settimeout(0.05)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            try:
                packet = middle.recv(2048)
            except TimeoutError:
                continue
            for answer in treatment(seen[0], packet):
                middle.sendto(answer, target)
            seen[0] += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield sender, receiver, seen
    finally:
        stop.set()
        thread.join()
        for one in (sender, receiver, middle):
            one.close()


def run(
    sender: socket.socket,
    receiver: socket.socket,
    send_channel: int = 0,
    receive_channel: int = 0,
) -> dict[str, int]:
    generator = Generator(
        [Path(sender.fileno(), receiver.fileno(), send_channel, receive_channel)],
        payload_bytes=PAYLOAD_BYTES,
        burst=2,
        rate=RATE,
    )
    generator.run(0.2)
    generator.drain()
    assert generator.path_counters().tolist() == [
        [generator.counters()["sent"], generator.counters()["delivered"]]
    ]
    return generator.counters()


def test_every_packet_of_a_faithful_relay_is_delivered() -> None:
    with relay(lambda _, packet: [packet]) as (sender, receiver, seen):
        counters = run(sender, receiver)
    assert counters["sent"] == seen[0] > 0
    assert counters["delivered"] == counters["sent"]
    assert counters["duplicates"] == counters["misdirected"] == counters["other"] == 0


def test_lost_packets_are_missing_exactly() -> None:
    with relay(lambda number, packet: [] if number % 10 == 3 else [packet]) as parts:
        sender, receiver, seen = parts
        counters = run(sender, receiver)
    dropped = len(range(3, seen[0], 10))
    assert dropped > 0
    assert counters["sent"] - counters["delivered"] == dropped


def test_repeated_packets_count_once() -> None:
    with relay(lambda number, packet: [packet] * (1 + (number % 7 == 0))) as parts:
        sender, receiver, seen = parts
        counters = run(sender, receiver)
    assert counters["delivered"] == counters["sent"] == seen[0]
    assert counters["duplicates"] == len(range(0, seen[0], 7))


def test_reordered_packets_count_once_each() -> None:
    held: list[bytes] = []

    def swap(_: int, packet: bytes) -> list[bytes]:
        held.append(packet)
        if len(held) < 2:
            return []
        answer = held[::-1]
        held.clear()
        return answer

    with relay(swap) as (sender, receiver, seen):
        counters = run(sender, receiver)
    assert counters["delivered"] == seen[0] - len(held)
    assert counters["duplicates"] == counters["beyond_window"] == 0


def test_channel_data_is_written_and_understood() -> None:
    def rewrite(_: int, packet: bytes) -> list[bytes]:
        channel, length = struct.unpack_from("!HH", packet)
        assert (channel, length, len(packet)) == (0x4000, PAYLOAD_BYTES, PAYLOAD_BYTES + 4)
        return [struct.pack("!HH", 0x4ABC, length) + packet[4:]]

    with relay(rewrite) as (sender, receiver, _):
        counters = run(sender, receiver, send_channel=0x4000, receive_channel=0x4ABC)
    assert counters["delivered"] == counters["sent"] > 0


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda packet: packet[:-1], id="cut short"),
        pytest.param(
            lambda packet: struct.pack("!HH", 0x4000, len(packet)) + packet, id="on a channel"
        ),
        pytest.param(lambda packet: packet[:8] + b"\xff\0\0\0" + packet[12:], id="no such path"),
        pytest.param(
            lambda packet: packet[:16] + struct.pack("=Q", 2**40) + packet[24:], id="never sent"
        ),
        pytest.param(lambda packet: packet[:16] + bytes(8) + packet[24:], id="number zero"),
    ],
)
def test_spoilt_packets_are_not_delivered(spoil: Callable[[bytes], bytes]) -> None:
    with relay(lambda _, packet: [spoil(packet)]) as (sender, receiver, seen):
        counters = run(sender, receiver)
    assert counters["delivered"] == 0
    assert counters["misdirected"] == seen[0] == counters["sent"] > 0


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda packet: packet[:31], id="too short to tell"),
        pytest.param(lambda packet: packet[:12] + b"\0\0\0\0" + packet[16:], id="another tag"),
        pytest.param(lambda packet: b"\0\1" + packet[2:], id="STUN"),
        pytest.param(
            lambda packet: struct.pack("!HH", 0x4000, len(packet) + 9) + packet, id="a wrong length"
        ),
    ],
)
def test_what_is_not_ours_is_counted_apart(spoil: Callable[[bytes], bytes]) -> None:
    with relay(lambda _, packet: [spoil(packet)]) as (sender, receiver, seen):
        counters = run(sender, receiver)
    assert counters["delivered"] == counters["misdirected"] == 0
    assert counters["other"] == seen[0] == counters["sent"] > 0


def test_packets_later_than_the_window_are_not_called_delivered() -> None:
    first: list[bytes] = []

    def hold_first(number: int, packet: bytes) -> list[bytes]:
        if number == 0:
            first.append(packet)
            return []
        return [packet, first[0]] if number == 8192 else [packet]

    with relay(hold_first) as (sender, receiver, seen):
        generator = Generator(
            [Path(sender.fileno(), receiver.fileno())], payload_bytes=32, rate=20_000
        )
        while seen[0] < 9_000:
            generator.run(0.01)
            while seen[0] < generator.counters()["sent"]:
                generator.drain(quiet_s=0.005)
        generator.drain()
        counters = generator.counters()
    assert counters["beyond_window"] == 1
    assert counters["sent"] - counters["delivered"] == 1


def test_answers_measure_the_way_there_and_back() -> None:
    one, other = udp(), udp()
    with one, other:
        one.connect(other.getsockname())
        other.connect(one.getsockname())
        paths = [
            Path(one.fileno(), other.fileno()),
            Path(other.fileno(), one.fileno(), answers=0),
        ]
        generator = Generator(paths, payload_bytes=PAYLOAD_BYTES, rate=RATE)
        generator.run(0.1)
        generator.drain()
        there, back = generator.path_counters().tolist()
        assert there[0] == there[1] == back[0] == back[1] > 0
        # Only whole round trips are timed.
        assert int(generator.latency_histogram().sum()) == back[1]


def test_an_unconnected_socket_sends_to_the_destination() -> None:
    one, other = udp(), udp()
    with one, other:
        destination = Address.from_text(*other.getsockname())
        paths = [Path(one.fileno(), other.fileno(), destination=destination)]
        for burst in (1, 3):
            generator = Generator(paths, payload_bytes=PAYLOAD_BYTES, burst=burst, rate=RATE)
            generator.run(0.05)
            generator.drain()
            counters = generator.counters()
            assert counters["delivered"] == counters["sent"] > 0


def test_an_inactive_path_sends_nothing_and_can_be_replaced() -> None:
    sockets = [udp() for _ in range(4)]
    try:
        one, other, third, fourth = sockets
        one.connect(other.getsockname())
        third.connect(fourth.getsockname())
        generator = Generator(
            [Path(one.fileno(), other.fileno())], payload_bytes=PAYLOAD_BYTES, rate=RATE
        )
        with pytest.raises(ValueError, match="inactive"):
            generator.replace(0, Path(third.fileno(), fourth.fileno()))
        generator.run(0.05)
        generator.set_active(0, False)
        before = generator.counters()["sent"]
        generator.run(0.05)
        assert generator.counters()["sent"] == before
        generator.replace(0, Path(third.fileno(), fourth.fileno()))
        one.close()
        other.close()
        generator.run(0.05)
        generator.drain()
        counters = generator.counters()
        assert counters["delivered"] == counters["sent"] > before
    finally:
        for each in sockets:
            each.close()


def test_what_the_kernel_refuses_is_no_loss() -> None:
    one, other = udp(), udp()
    with one, other:
        gone = udp()
        one.connect(gone.getsockname())
        gone.close()
        generator = Generator(
            [Path(one.fileno(), other.fileno())], payload_bytes=PAYLOAD_BYTES, burst=4, rate=RATE
        )
        generator.run(0.05)
        counters = generator.counters()
    assert counters["sent"] > 0
    assert counters["delivered"] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"payload_bytes": 31},
        {"payload_bytes": 2045},
        {"payload_bytes": 172, "burst": 0},
        {"payload_bytes": 172, "burst": 65},
        {"payload_bytes": 172, "rate": -1.0},
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, float]) -> None:
    with udp() as one, udp() as other, pytest.raises(ValueError, match="is "):
        Generator([Path(one.fileno(), other.fileno())], **arguments)  # type: ignore[arg-type]


def test_buckets_start_in_order_and_are_narrow() -> None:
    starts = bucket_starts_ns().astype(np.float64)
    assert (np.diff(starts[:3000]) > 0).all()
    assert (np.diff(starts[128:3000]) / starts[128:2999] <= 1 / 64).all()


def test_percentiles_are_those_of_the_histogram() -> None:
    histogram = np.zeros_like(bucket_starts_ns())
    histogram[10], histogram[100] = 99, 1
    assert percentiles_us(histogram, (0.5, 0.99, 0.999)) == [0.01, 0.01, 0.1]
    assert percentiles_us(np.zeros_like(histogram), (0.5,)) == [0.0]
