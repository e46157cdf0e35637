"""The data plane over the kernel's UDP sockets: `relay.dataplane.interface.DataPlane`, compiled.

The object belongs to the control plane's thread, the one writer of the tables; each worker thread
runs `run_worker` without the GIL from `start` to `close`.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

from relay.dataplane.atomic cimport (
    exchange_32, load_relaxed_32, load_relaxed_64, store_relaxed_64, store_release_32,
)
from relay.dataplane.counters cimport (
    harvest_flows, harvest_sessions, living_flows, living_sessions, sum_totals,
)
from relay.dataplane.packet cimport Addr, from_sockaddr, get_ip, same_address, set_ip
from relay.dataplane.ring cimport RECORD_DATAGRAM, Record, Ring, drop_record, peek_record
from relay.dataplane.system cimport *
from relay.dataplane.tables cimport (
    STUN_BYTES_PER_SECOND as _STUN_BYTES_PER_SECOND, Allocation, Flow, Relay, Tables,
    add_allocation, add_flow, add_relay, add_session, create_tables, destroy_tables, find_channel,
    find_peer, join_relay, part_relay, publish_allocation, reclaim, refresh_permission,
    release_session, remove_allocation, remove_flow, remove_relay,
)
from relay.dataplane.udp_socket cimport (
    bind_socket, dropped_by_kernel, get_option, new_socket, set_option,
)
from relay.dataplane.worker cimport (
    CONTROL_PER_SECOND as _CONTROL_PER_SECOND, MAX_LISTENERS, MAX_WORKERS, STOP_EVENT,
    STRANGER_BYTES as _STRANGER_BYTES, Worker, create_worker, destroy_worker, flush, monotonic_ns,
    queue_reply, run_worker, send_from_control,
)

import os
import secrets
import threading

import numpy as np

from core.stun.address import Address, FiveTuple
from relay.dataplane.counters import FLOW_TYPE, SESSION_TYPE
from relay.dataplane.interface import (
    UNLIMITED_SECONDS, ControlDatagram, IcmpError, RelayUnavailable,
)

LISTENER_BUFFER_BYTES = 8 * 1024 * 1024
RELAY_BUFFER_BYTES = 1024 * 1024
CONTROL_PER_SECOND = _CONTROL_PER_SECOND
STRANGER_BYTES = _STRANGER_BYTES
STUN_BYTES_PER_SECOND = _STUN_BYTES_PER_SECOND
SPARE_SLOTS = 256
"""Beside what is asked for: what has been closed but may still be seen by a worker."""
_WAIT_TRIES = 500
"""How often (20 us each) a full pool is looked at again before somebody is refused."""

cdef int read_address(object address, Addr *target) except -1:
    """An `Address` as the tables hold it."""
    cdef bytes ip = address.ip
    cdef Py_ssize_t size = len(ip)
    assert size == 4 or size == 16
    set_ip(target, <const uint8_t *>PyBytes_AS_STRING(ip), <int>size)
    target.port = address.port
    return 0


cdef object new_tuple = tuple.__new__
"""Makes a named tuple without the Python frame that its own constructor costs."""


cdef object make_address(const Addr *source):
    cdef uint8_t ip[16]
    cdef int size = get_ip(source, ip)
    return new_tuple(
        Address, (PyBytes_FromStringAndSize(<const char *>ip, size), source.port)
    )


cdef inline uint64_t picoseconds_per_byte(uint64_t rate_bytes_s) noexcept:
    """A limit as the tables hold it; 0 is none."""
    return 1000000000000 // rate_bytes_s if rate_bytes_s else 0


cdef class SocketDataPlane:
    """Relays packets between UDP clients and UDP peers.

    Args:
        addresses: listening addresses; port 0 lets the kernel choose, see `listening`.
        workers: threads, of which each has a socket for each listening address.
        relay_addresses: packed IP addresses that relays will be bound to.
        external: packed IP addresses, bound -> as seen from outside (1:1 NAT).
        max_allocations: how many may live at the same time.
        flows_per_allocation: permissions and channels that each of them may have.
        low_latency: workers poll for a while after each packet instead of sleeping.

    Raises:
        OSError: an address can't be bound, or another process is there already.
    """

    cdef Tables *_tables
    cdef Worker *_workers[MAX_WORKERS + 1]
    cdef uint32_t _worker_count
    cdef uint32_t _next_worker
    cdef uint32_t _first_drained
    cdef uint32_t _listener_count
    cdef Addr _listeners[MAX_LISTENERS]
    cdef uint64_t _relays_dropped
    cdef uint8_t *_outgoing
    cdef readonly int control_fd
    cdef readonly list listening
    cdef list _threads
    cdef list _replies          # keeps the bytes that wait to be sent
    cdef list _closed_flows
    cdef list _closed_sessions
    cdef dict _external

    def __cinit__(
        self, addresses, *, uint32_t workers, relay_addresses, external, uint32_t max_allocations,
        uint32_t flows_per_allocation, bint low_latency=False,
    ):
        cdef uint32_t i
        cdef uint32_t slots = max_allocations + SPARE_SLOTS
        cdef uint64_t flows
        assert 1 <= workers <= MAX_WORKERS
        assert 1 <= len(addresses) <= MAX_LISTENERS
        self.control_fd = -1
        self._threads = []
        self._replies = []
        self._closed_flows = []
        self._closed_sessions = []
        self._external = dict(external)
        self._outgoing = <uint8_t *>malloc(65536 + 8)
        # Few allocations have all that they may; a table for all of them would only be reserved.
        flows = min(<uint64_t>slots * flows_per_allocation, max(<uint64_t>slots * 8, 1 << 20))
        self._tables = create_tables(
            slots, <uint32_t>flows, 2 * slots, workers,
            secrets.randbits(64) | 1, secrets.randbits(64) | 1,
        )
        if self._tables == NULL or self._outgoing == NULL:
            raise MemoryError("no memory for the flow table")
        self._read_external()
        self.control_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.control_fd < 0:
            raise OSError(errno, os.strerror(errno))
        for i in range(workers + 1):
            # The last one is the control plane's own lane, which never runs.
            self._workers[i] = create_worker(self._tables, i, low_latency)
            if self._workers[i] == NULL:
                raise OSError(errno, os.strerror(errno))
            self._workers[i].control_fd = self.control_fd
            self._workers[i].segmentation = True
            self._workers[i].random_a = secrets.randbits(64)
            self._workers[i].random_b = secrets.randbits(64)
            self._worker_count = i
        self.listening = []
        for address in addresses:
            self._listen(address)
        self._read_endpoints()

    def __dealloc__(self):
        cdef uint32_t i
        if self._threads:
            # Their workers still look at all this; it stays until the process ends.
            return
        for i in range(MAX_WORKERS + 1):
            if self._workers[i] != NULL:
                if i == self._worker_count and i > 0:
                    # Its listening sockets are the first worker's.
                    self._workers[i].listener_count = 0
                destroy_worker(self._workers[i])
        # Without tables the constructor has not come to set the descriptor.
        if self._tables != NULL and self.control_fd >= 0:
            close(self.control_fd)
        destroy_tables(self._tables)
        free(self._outgoing)

    cdef inline int _check_open(self) except -1:
        if self._tables == NULL:
            raise RuntimeError("the data plane is closed")
        return 0

    # ------------------------------------------------------------ set-up

    cdef int _read_external(self) except -1:
        cdef uint32_t i = 0
        cdef uint32_t count = <uint32_t>len(self._external)
        self._tables.outer = <Addr *>calloc(count + 1, sizeof(Addr))
        self._tables.inner = <Addr *>calloc(count + 1, sizeof(Addr))
        if self._tables.outer == NULL or self._tables.inner == NULL:
            raise MemoryError("no memory for the address map")
        for inner, outer in self._external.items():
            read_address(Address(inner, 0), &self._tables.inner[i])
            read_address(Address(outer, 0), &self._tables.outer[i])
            i += 1
        self._tables.external_count = count
        return 0

    cdef int _read_endpoints(self) except -1:
        cdef uint32_t i
        self._tables.endpoints = <Addr *>calloc(self._listener_count, sizeof(Addr))
        if self._tables.endpoints == NULL:
            raise MemoryError("no memory for the address map")
        for i in range(self._listener_count):
            self._tables.endpoints[i] = self._listeners[i]
        self._tables.endpoint_count = self._listener_count
        return 0

    cdef int _listen(self, object address) except -1:
        """Bind one socket a worker to the address."""
        cdef Addr wanted
        cdef uint8_t name[32]
        cdef socklen_t size = sizeof(name)
        cdef int fd
        cdef uint32_t i
        cdef uint32_t index = self._listener_count
        cdef Worker *worker
        cdef epoll_event event
        cdef bint wildcard
        read_address(address, &wanted)
        wildcard = wanted.low == 0 and wanted.high == 0
        # With SO_REUSEPORT another process would share the port unnoticed, and get half of the
        # clients. Without it the kernel says so.
        fd = new_socket(wanted.family, 0, False)
        bind_socket(fd, &wanted)
        getsockname(fd, <sockaddr *>name, &size)
        close(fd)
        from_sockaddr(&wanted, name)
        for i in range(self._worker_count):
            worker = self._workers[i]
            fd = new_socket(wanted.family, LISTENER_BUFFER_BYTES, True)
            if wildcard and wanted.family == 4:
                set_option(fd, IPPROTO_IP, IP_PKTINFO, 1)
            elif wildcard:
                set_option(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
            bind_socket(fd, &wanted)
            worker.listen_fds[index] = fd
            worker.listeners[index].address = wanted
            worker.listeners[index].wildcard = wildcard
            worker.listener_count = index + 1
            event.events = EPOLLIN
            event.data.u64 = index
            if epoll_ctl(worker.epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0:
                raise OSError(errno, os.strerror(errno))
        worker = self._workers[self._worker_count]
        worker.listen_fds[index] = self._workers[0].listen_fds[index]
        worker.listeners[index] = self._workers[0].listeners[index]
        worker.listener_count = index + 1
        self._listeners[index] = wanted
        self._listener_count = index + 1
        self.listening.append(make_address(&wanted))
        return 0

    def report(self):
        """What the kernel gave, as lines for the log; the last one says how to get more."""
        cdef int granted
        cdef bint segmentation = True
        cdef bint joining = True
        self._check_open()
        granted = get_option(self._workers[0].listen_fds[0], SOL_SOCKET, SO_RCVBUF) // 2
        fd = self._workers[0].listen_fds[0]
        if set_option(fd, SOL_UDP, UDP_SEGMENT, 0) < 0:
            segmentation = False
        joining = get_option(fd, SOL_UDP, UDP_GRO) != 0
        lines = [
            f"{self._worker_count} worker(s), {self._listener_count} listening address(es), "
            f"socket buffers of {granted // 1024} KiB, "
            f"UDP_SEGMENT {'on' if segmentation else 'missing'}, "
            f"UDP_GRO {'on' if joining else 'missing'}"
        ]
        if granted < LISTENER_BUFFER_BYTES:
            lines.append(
                f"socket buffers are smaller than the {LISTENER_BUFFER_BYTES // 1024} KiB asked "
                f"for; raise them: sysctl -w net.core.rmem_max={LISTENER_BUFFER_BYTES} "
                f"net.core.wmem_max={LISTENER_BUFFER_BYTES}"
            )
        return lines

    def start(self):
        """Start the workers' threads."""
        cdef epoll_event event
        cdef uint32_t i
        self._check_open()
        assert not self._threads
        for i in range(self._worker_count):
            event.events = EPOLLIN
            event.data.u64 = STOP_EVENT
            if epoll_ctl(
                self._workers[i].epoll_fd, EPOLL_CTL_ADD, self._workers[i].stop_fd, &event
            ) < 0:
                raise OSError(errno, os.strerror(errno))
        for i in range(self._worker_count):
            thread = threading.Thread(
                target=self._run, args=(i,), name=f"relay-{i}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _run(self, uint32_t index):
        cdef Worker *worker = self._workers[index]
        with nogil:
            run_worker(worker)

    def close(self):
        """Stop and join the threads, then close every socket. After it every other call raises
        RuntimeError, and another of this does nothing."""
        cdef uint64_t one = 1
        cdef uint32_t i
        if self._tables == NULL:
            return
        for i in range(self._worker_count):
            store_release_32(&self._workers[i].stop, 1)
            write(self._workers[i].stop_fd, &one, 8)
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        for i in range(self._worker_count + 1):
            if i == self._worker_count:
                self._workers[i].listener_count = 0
            destroy_worker(self._workers[i])
            self._workers[i] = NULL
        destroy_tables(self._tables)
        self._tables = NULL
        self._replies.clear()
        if self.control_fd >= 0:
            close(self.control_fd)
            self.control_fd = -1

    # ------------------------------------------------------------ the control plane's datagrams

    def receive(self, uint32_t limit):
        """Up to `limit` things for the control plane; clients that have an allocation first."""
        cdef uint64_t value
        cdef uint32_t i
        cdef int ring
        cdef uint32_t share
        cdef bint more = False
        cdef bint left = False
        cdef list found = []
        self._check_open()
        # First the flags, then the rings: what a worker writes from here on is told anew.
        read(self.control_fd, &value, 8)
        for i in range(self._worker_count):
            exchange_32(&self._workers[i].notified, 0)
        # Clients with an allocation come first, but leave strangers a quarter; and no worker is
        # always the first.
        self._first_drained = (self._first_drained + 1) % self._worker_count
        for ring, share in ((1, limit - limit // 4), (0, limit), (1, limit)):
            more = False
            for i in range(self._worker_count):
                more = self._drain(
                    &self._workers[(self._first_drained + i) % self._worker_count].rings[ring],
                    share, found,
                ) or more
            left = left or more
        more = left and len(found) >= <Py_ssize_t>limit
        if more:
            value = 1
            write(self.control_fd, &value, 8)
        return found

    cdef bint _drain(self, Ring *ring, uint32_t limit, list found) except? False:
        """Append what the ring holds; True when `limit` was reached with something left."""
        cdef Record *record
        while True:
            record = peek_record(ring)
            if record == NULL:
                return False
            if <uint32_t>len(found) >= limit:
                return True
            if record.kind == RECORD_DATAGRAM:
                found.append(
                    new_tuple(
                        ControlDatagram,
                        (
                            new_tuple(
                                FiveTuple,
                                (
                                    "udp", make_address(&record.client),
                                    make_address(&record.server),
                                ),
                            ),
                            PyBytes_FromStringAndSize(
                                <const char *>record + sizeof(Record), record.payload_bytes
                            ),
                        ),
                    )
                )
            elif self._is_owner(record):
                found.append(
                    IcmpError(
                        record.listener, make_address(&record.client), record.icmp_type,
                        record.icmp_code, record.icmp_data,
                    )
                )
            drop_record(ring, record)

    cdef bint _is_owner(self, const Record *record) noexcept:
        """Whether the allocation of an ICMP error is still the one that lives in its slot."""
        cdef Allocation *allocation = &self._tables.allocations[record.listener]
        return allocation.live and allocation.generation == record.generation

    cdef int _find_listener(self, const Addr *server) noexcept:
        """The listener that holds the server's address: bound to it, or to its wildcard."""
        cdef uint32_t i
        cdef int wildcard = -1
        for i in range(self._listener_count):
            if same_address(&self._listeners[i], server):
                return <int>i
            if (
                self._listeners[i].low == 0 and self._listeners[i].high == 0
                and self._listeners[i].port == server.port
                and self._listeners[i].family == server.family
            ):
                wildcard = <int>i
        return wildcard

    def reply(self, five_tuple, bytes payload):
        """Send a datagram to a client, with the next `flush_replies` at the latest."""
        cdef Addr client, server
        cdef int listener
        self._check_open()
        read_address(five_tuple.client, &client)
        read_address(five_tuple.server, &server)
        listener = self._find_listener(&server)
        assert listener >= 0
        self._replies.append(payload)
        queue_reply(
            self._workers[self._worker_count], <uint32_t>listener, &client, &server,
            <uint8_t *>PyBytes_AS_STRING(payload), <uint32_t>len(payload),
        )

    def flush_replies(self):
        """Send what waits: many replies cost little more than one."""
        self._check_open()
        flush(self._workers[self._worker_count])
        self._replies.clear()

    def send_to_peer(self, uint32_t allocation, peer, bytes payload, bint dont_fragment):
        """What a worker does with a Send indication, for one that came another way."""
        cdef Addr address
        cdef Worker *lane = self._workers[self._worker_count]
        cdef uint32_t size = <uint32_t>len(payload)
        self._check_open()
        read_address(peer, &address)
        assert self._tables.allocations[allocation].live and size <= 65535
        memcpy(self._outgoing + 8, PyBytes_AS_STRING(payload), size)
        send_from_control(
            lane, allocation, &address, self._outgoing + 8, size, dont_fragment, monotonic_ns()
        )

    # ------------------------------------------------------------ sessions, relays, allocations

    cdef void _make_room(self) noexcept:
        """Have the slots of what was closed freed: called when a pool is exhausted."""
        self._harvest()
        usleep(20)
        reclaim(self._tables)
        self._harvest()

    def open_session(self, uint64_t granted_seconds=UNLIMITED_SECONDS):
        """A handle under which active seconds are counted, and of which there may be as many as
        granted.

        Raises:
            RelayUnavailable: no slot is left.
        """
        cdef uint32_t session
        cdef int tries = 0
        self._check_open()
        session = add_session(self._tables, granted_seconds)
        while not session and tries < _WAIT_TRIES:
            self._make_room()
            session = add_session(self._tables, granted_seconds)
            tries += 1
        if not session:
            raise RelayUnavailable("no slot is left for a session")
        return session

    def close_session(self, uint32_t session):
        """No more allocations will join."""
        self._check_open()
        assert self._tables.sessions[session].live
        release_session(self._tables, session)

    def open_relay(self, address):
        """Bind a relayed transport address.

        Raises:
            RelayUnavailable: try another.
        """
        cdef Addr bound, public
        cdef int fd
        cdef uint32_t relay
        self._check_open()
        read_address(address, &bound)
        read_address(Address(self._external.get(address.ip, address.ip), address.port), &public)
        # The port may be one whose socket has only been waiting for the workers.
        reclaim(self._tables)
        try:
            fd = new_socket(bound.family, RELAY_BUFFER_BYTES, False)
            if bound.family == 4:
                set_option(fd, IPPROTO_IP, IP_RECVERR, 1)
            else:
                set_option(fd, IPPROTO_IPV6, IPV6_RECVERR, 1)
            bind_socket(fd, &bound)
        except OSError as error:
            raise RelayUnavailable(error.strerror) from error
        relay = add_relay(self._tables, &bound, &public, fd, self._next_worker)
        if not relay:
            self._make_room()
            relay = add_relay(self._tables, &bound, &public, fd, self._next_worker)
        if not relay:
            close(fd)
            raise RelayUnavailable("no slot is left for a relayed address")
        # Nobody looks at it until an allocation owns it (`_watch`).
        self._next_worker = (self._next_worker + 1) % self._worker_count
        return relay

    def close_relay(self, uint32_t relay):
        """Close a relay that no allocation owns."""
        self._check_open()
        assert load_relaxed_32(&self._tables.relays[relay].allocation) == 0
        remove_relay(self._tables, relay)

    def open_allocation(
        self, five_tuple, relays, uint32_t session, uint64_t expires_ns, uint64_t rate_bytes_s
    ):
        """Join relays to a client.

        Raises:
            RelayUnavailable: no slot is left.
        """
        cdef Addr client, server
        cdef uint32_t allocation
        cdef uint32_t relay
        cdef int listener, error, tries = 0
        cdef uint64_t picoseconds = picoseconds_per_byte(rate_bytes_s)
        self._check_open()
        read_address(five_tuple.client, &client)
        read_address(five_tuple.server, &server)
        listener = self._find_listener(&server)
        assert listener >= 0 and relays and self._tables.sessions[session].live
        allocation = add_allocation(
            self._tables, &client, &server, <uint32_t>listener, session, expires_ns, picoseconds
        )
        while not allocation and tries < _WAIT_TRIES:
            self._make_room()
            allocation = add_allocation(
                self._tables, &client, &server, <uint32_t>listener, session, expires_ns,
                picoseconds,
            )
            tries += 1
        if not allocation:
            raise RelayUnavailable("no slot is left for an allocation")
        for relay in relays:
            if not self._watch(relay):
                error = errno
                for relay in relays:
                    self._unwatch(relay)
                remove_allocation(self._tables, allocation)
                raise RelayUnavailable(os.strerror(error))
        for relay in relays:
            join_relay(self._tables, allocation, relay)
        publish_allocation(self._tables, allocation)
        return allocation

    cdef bint _watch(self, uint32_t slot) noexcept:
        """Let the relay's worker hear of its packets and errors; False where the kernel refuses.

        Not before an allocation is about to own it: errors are reported whatever is asked for,
        again and again, and of a relay without an owner the worker reads none.
        """
        cdef Relay *relay = &self._tables.relays[slot]
        cdef epoll_event event
        event.events = EPOLLIN
        event.data.u64 = <uint64_t>relay.generation << 32 | slot
        return epoll_ctl(
            self._workers[relay.worker].epoll_fd, EPOLL_CTL_ADD, relay.fd, &event
        ) == 0

    cdef void _unwatch(self, uint32_t slot) noexcept:
        """The opposite, before the relay has no owner any more."""
        cdef Relay *relay = &self._tables.relays[slot]
        cdef epoll_event event
        self._relays_dropped += dropped_by_kernel(relay.fd)
        epoll_ctl(self._workers[relay.worker].epoll_fd, EPOLL_CTL_DEL, relay.fd, &event)

    def refresh_allocation(self, uint32_t allocation, uint64_t expires_ns):
        """Move its end."""
        self._check_open()
        assert self._tables.allocations[allocation].live
        store_relaxed_64(&self._tables.allocations[allocation].expires_ns, expires_ns)

    def set_rate(self, uint32_t allocation, uint64_t rate_bytes_s):
        """Limit each direction from now on, 0 for no limit."""
        cdef Allocation *entry
        cdef uint64_t picoseconds = picoseconds_per_byte(rate_bytes_s)
        self._check_open()
        entry = &self._tables.allocations[allocation]
        assert entry.live
        if load_relaxed_64(&entry.picoseconds_per_byte) == picoseconds:
            return
        store_relaxed_64(&entry.picoseconds_per_byte, picoseconds)
        # One packet at a very low limit may have filled hours of it.
        store_relaxed_64(&entry.sent_until_ns, 0)
        store_relaxed_64(&entry.received_until_ns, 0)

    def grant_sessions(self, sessions, granted_seconds):
        """So many active seconds may there be from now on, those that were included; two arrays."""
        cdef const uint32_t[::1] handles = sessions
        cdef const uint64_t[::1] granted = granted_seconds
        cdef Py_ssize_t i
        self._check_open()
        assert handles.shape[0] == granted.shape[0]
        for i in range(handles.shape[0]):
            assert self._tables.sessions[handles[i]].live
            store_relaxed_64(&self._tables.sessions[handles[i]].granted_seconds, granted[i])

    cdef uint32_t _relay_of(self, uint32_t allocation, int family) noexcept:
        """Its relay of a family (4 or 6), 0 where it has none."""
        cdef Allocation *entry = &self._tables.allocations[allocation]
        return load_relaxed_32(&entry.relay_v4 if family == 4 else &entry.relay_v6)

    def remove_relay(self, uint32_t allocation, int ip_bytes):
        """Close the relay of one address family of a dual allocation, which lives on."""
        cdef uint32_t relay
        self._check_open()
        assert ip_bytes == 4 or ip_bytes == 16
        assert self._tables.allocations[allocation].live
        assert self._relay_of(allocation, 4) and self._relay_of(allocation, 6)
        relay = self._relay_of(allocation, 4 if ip_bytes == 4 else 6)
        self._unwatch(relay)
        part_relay(self._tables, allocation, relay)
        reclaim(self._tables)

    def close_allocation(self, uint32_t allocation):
        """Remove it with its relays and flows."""
        cdef int family
        self._check_open()
        assert self._tables.allocations[allocation].live
        for family in (4, 6):
            if self._relay_of(allocation, family):
                self._unwatch(self._relay_of(allocation, family))
        remove_allocation(self._tables, allocation)
        # Where the workers sleep its sockets are closed here and now.
        reclaim(self._tables)

    # ------------------------------------------------------------ permissions, channels

    cdef uint32_t _add_flow(
        self, uint32_t allocation, const Addr *peer, uint32_t channel, uint32_t own,
        uint64_t expires_ns, uint64_t permission_expires_ns
    ) except 0:
        cdef uint32_t flow = add_flow(
            self._tables, allocation, peer, channel, own, expires_ns, permission_expires_ns
        )
        if not flow:
            self._make_room()
            flow = add_flow(
                self._tables, allocation, peer, channel, own, expires_ns, permission_expires_ns
            )
        if not flow:
            raise RelayUnavailable("no slot is left for a flow")
        return flow

    def install_permission(
        self, uint32_t allocation, bytes peer_ip, uint64_t expires_ns, uint32_t own
    ):
        """Let packets of any port of `peer_ip` pass, also those of channels to it.

        Raises:
            RelayUnavailable: no slot is left.
        """
        cdef Addr peer
        self._check_open()
        assert self._tables.allocations[allocation].live
        read_address(Address(peer_ip, 0), &peer)
        if not find_peer(self._tables, allocation, &peer):
            self._add_flow(allocation, &peer, 0, own, expires_ns, expires_ns)
        refresh_permission(self._tables, allocation, &peer, expires_ns, own)

    def install_channel(
        self, uint32_t allocation, uint32_t channel, peer, uint64_t expires_ns
    ):
        """Bind or refresh a channel; the permission of the same address stands already.

        Raises:
            RelayUnavailable: no slot is left.
        """
        cdef Addr address, permission_address
        cdef Flow *permission
        cdef uint32_t slot
        self._check_open()
        assert self._tables.allocations[allocation].live
        read_address(peer, &address)
        permission_address = address
        permission_address.port = 0
        slot = find_peer(self._tables, allocation, &permission_address)
        assert 0x4000 <= channel <= 0x7FFF
        if not slot:
            raise RelayUnavailable("no slot was left for the permission")
        permission = &self._tables.flows[slot]
        slot = find_channel(self._tables, allocation, channel)
        if slot:
            assert same_address(&self._tables.flows[slot].peer, &address)
            store_relaxed_64(&self._tables.flows[slot].expires_ns, expires_ns)
            return
        if find_peer(self._tables, allocation, &address):
            raise RelayUnavailable("the peer is bound already")
        self._add_flow(
            allocation, &address, channel, load_relaxed_32(&permission.own), expires_ns,
            load_relaxed_64(&permission.permission_expires_ns),
        )

    def remove_permission(self, uint32_t allocation, bytes peer_ip):
        """Remove an expired permission."""
        cdef Addr peer
        cdef uint32_t slot
        self._check_open()
        read_address(Address(peer_ip, 0), &peer)
        slot = find_peer(self._tables, allocation, &peer)
        if slot:
            remove_flow(self._tables, slot)

    def remove_channel(self, uint32_t allocation, uint32_t channel):
        """Remove an expired channel."""
        cdef uint32_t slot
        self._check_open()
        slot = find_channel(self._tables, allocation, channel)
        if slot:
            remove_flow(self._tables, slot)

    # ------------------------------------------------------------ counters

    def flow_counters(self):
        """One row a living permission or channel, of type `FLOW_TYPE`."""
        self._check_open()
        return living_flows(self._tables)

    def session_counters(self):
        """One row a living session, of type `SESSION_TYPE`."""
        self._check_open()
        return living_sessions(self._tables)

    cdef int _harvest(self) except -1:
        """Keep what closed flows and sessions counted last, until it is taken."""
        reclaim(self._tables)
        if self._tables.closed_flow_count:
            self._closed_flows.append(harvest_flows(self._tables))
        if self._tables.closed_session_count:
            self._closed_sessions.append(harvest_sessions(self._tables))
        return 0

    def take_closed_flows(self):
        """The last counters of flows that no worker can still touch, each exactly once."""
        self._check_open()
        self._harvest()
        taken = self._closed_flows or [np.empty(0, dtype=FLOW_TYPE)]
        self._closed_flows = []
        return np.concatenate(taken)

    def take_closed_sessions(self):
        """The last counters of sessions that no worker can still touch, each exactly once."""
        self._check_open()
        self._harvest()
        taken = self._closed_sessions or [np.empty(0, dtype=SESSION_TYPE)]
        self._closed_sessions = []
        return np.concatenate(taken)

    def totals(self):
        """Everything that the workers count, summed, by name."""
        cdef uint32_t i, allocation, relay
        cdef int which, family
        cdef uint64_t dropped = self._relays_dropped
        cdef dict result
        self._check_open()
        result = sum_totals(self._workers, self._worker_count + 1)
        for i in range(self._worker_count):
            for which in range(<int>self._listener_count):
                dropped += dropped_by_kernel(self._workers[i].listen_fds[which])
        for allocation in range(1, self._tables.allocation_pool.used + 1):
            if not self._tables.allocations[allocation].live:
                continue
            for family in (4, 6):
                relay = self._relay_of(allocation, family)
                if relay:
                    dropped += dropped_by_kernel(self._tables.relays[relay].fd)
        result["drop_receive_buffer"] = dropped
        return result
