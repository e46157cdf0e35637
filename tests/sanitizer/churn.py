"""What runs under ThreadSanitizer: allocations, permissions and channels come and go while two
workers forward packets to, from and between them.

Started as a program by test_threads.py; prints the totals, so that the test can see that there
was traffic of every kind.
"""

from __future__ import annotations

import json
import random
import select
import sys
import threading
import time

from core.stun.constants import Attribute, MessageClass, Method
from core.stun.message import encode_message
from relay.dataplane.interface import OWN_ALLOWED, ControlDatagram
from tests.support.engine import CHANNEL, Client, address_of, join, running_engine, udp_socket
from tests.support.turn_client import send_indication

CLIENTS = 12


def main(duration_s: float) -> None:
    """Run for so long."""
    chance = random.Random(7)
    stop = threading.Event()
    with (
        running_engine(workers=2, max_allocations=64) as engine,
        udp_socket() as peer,
        udp_socket("::1") as other_peer,
    ):
        peer.setblocking(False)
        other_peer.setblocking(False)
        clients: list[Client] = []
        halved: set[Client] = set()
        lock = threading.Lock()

        def send() -> None:
            request = encode_message(Method.BINDING, MessageClass.REQUEST, bytes(12), [])
            whole = (int(Attribute.DONT_FRAGMENT), b"")
            while not stop.is_set():
                # Under the lock, since a closed socket's number may be somebody else's next.
                with lock:
                    client = chance.choice(clients) if clients else None
                    if client is None:
                        continue
                    try:
                        client.send_channel(b"media" * 20)
                        client.send_channel(b"to the peer", CHANNEL + 1)
                        client.send_channel(b"by the other family", CHANNEL + 2)
                        client.socket.send(send_indication(address_of(other_peer), b"by Send"))
                        client.socket.send(send_indication(address_of(peer), b"by Send"))
                        client.socket.send(send_indication(address_of(peer), b"whole", [whole]))
                        client.socket.send(request)
                        client.send_channel(request, CHANNEL + 1)
                        peer.sendto(b"back", (client.relay.host, client.relay.port))
                        other_peer.sendto(b"back", ("::1", client.relayed[1].port))
                        peer.recv(100)
                        client.socket.recv(2000)
                    except OSError:
                        # Closed meanwhile, or nothing there: both are meant to happen.
                        continue

        senders = [threading.Thread(target=send) for _ in range(2)]
        for sender in senders:
            sender.start()
        until = time.monotonic() + duration_s
        while time.monotonic() < until:
            session = engine.open_session()
            pair = [
                Client(
                    engine,
                    session,
                    relay_hosts=["127.0.0.1", "::1"],
                    rate_bytes_s=10_000_000,
                )
                for _ in range(2)
            ]
            join(*pair)
            for client in pair:
                client.socket.setblocking(False)
                client.permit(address_of(peer), own=OWN_ALLOWED)
                client.bind(address_of(peer), CHANNEL + 1)
                client.bind(address_of(other_peer), CHANNEL + 2)
            engine.close_session(session)
            with lock:
                clients += pair
            time.sleep(0.002)
            if select.select([engine.control_fd], [], [], 0)[0]:
                for datagram in engine.receive(64):
                    if isinstance(datagram, ControlDatagram):
                        engine.reply(datagram.five_tuple, b"an answer")
                engine.flush_replies()
            if len(clients) >= CLIENTS:
                with lock:
                    gone = [clients.pop(chance.randrange(len(clients))) for _ in range(2)]
                # Under traffic, and with the flows of the family still there.
                for client in set(chance.sample([*clients, *gone], 4)) - halved:
                    engine.remove_relay(client.allocation, 16)
                    halved.add(client)
                for client in gone:
                    engine.remove_channel(client.allocation, CHANNEL + 1)
                    engine.refresh_allocation(client.allocation, time.monotonic_ns() + 10**9)
                    engine.send_to_peer(client.allocation, address_of(peer), b"by hand", True)
                    engine.close_allocation(client.allocation)
                    halved.discard(client)
                    with lock:
                        client.socket.close()
            for client in clients:
                engine.set_rate(client.allocation, chance.choice([0, 5_000_000, 10_000_000]))
            engine.flow_counters()
            engine.session_counters()
            engine.take_closed_flows()
            engine.take_closed_sessions()
        stop.set()
        for sender in senders:
            sender.join()
        totals = engine.totals()
    print(json.dumps(totals))


if __name__ == "__main__":
    main(float(sys.argv[1]))
