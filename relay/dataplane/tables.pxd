"""The flow table: who may send what to whom. One writer, lock-free readers.

Slots live in fixed arrays and are named by index; index 0 is nobody. They hang in chained hash
tables whose links are published with sequential stores, so that a reader sees a slot whole or not
at all. What the writer unlinks it keeps until every worker has been seen outside of its batch
(`Epochs`): only then may the slot, its counters or its descriptor be used again.

Two kinds of flow share one slot type. A permission is keyed by (allocation, peer IP, port 0), a
channel by (allocation, peer) and by (allocation, channel number) as well.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from relay.dataplane.atomic cimport load_relaxed_64, load_sequential_32, swap_64
from relay.dataplane.packet cimport Addr, fold, is_stun, same_address, same_ip

cdef enum:
    MAX_WORKERS = 64
    STUN_BYTES_PER_SECOND = 16384   # what a session may relay of STUN before the second counts

cdef enum OwnAddress:
    OWN_NO = 0
    OWN_RELAYS_ONLY = 1
    OWN_ALLOWED = 2

cdef struct Session:
    uint64_t active             # atomic: the newest second that has been counted, and below it
                                # 32 bits of how many there have been
    uint64_t granted_seconds    # atomic: as many active seconds may there be
    uint64_t stun_in_second     # atomic: bytes of STUN, see within_second
    uint32_t references         # writer alone: allocations, and one while it is open
    bint live                   # writer alone
    uint32_t next               # writer alone: free list, closed list

cdef struct Relay:
    Addr address                # where it is bound
    Addr public                 # as clients see it: behind 1:1 NAT another IP
    int fd
    uint32_t generation         # atomic: stale epoll events are told by it
    uint32_t allocation         # atomic: 0 while no allocation owns it
    uint32_t next_address       # atomic: chain of relay_heads
    uint32_t next               # writer alone: free list, retired list
    uint32_t worker

cdef struct Allocation:
    Addr client
    Addr server                 # the local address that the client has sent to
    uint64_t expires_ns         # atomic
    uint64_t sent_until_ns      # atomic: rate limit to the peer, as a virtual clock
    uint64_t received_until_ns  # atomic: the same to the client
    uint64_t asked_in_second    # atomic: its share of the control plane, see within_second
    uint64_t errors_in_second   # atomic: ICMP errors
    uint64_t picoseconds_per_byte   # atomic; 0: no limit
    uint32_t listener
    uint32_t generation         # tells the owners of a slot from each other
    uint32_t relay_v4           # atomic: 0 where it has none, or has given it up
    uint32_t relay_v6           # atomic
    uint32_t session
    uint32_t first_flow         # writer alone
    bint live                   # writer alone
    uint32_t next_client        # atomic: chain of client_heads
    uint32_t next               # writer alone: free list, retired list

cdef struct Flow:
    Addr peer                   # port 0: a permission
    uint64_t expires_ns         # atomic
    uint64_t permission_expires_ns  # atomic
    uint32_t allocation
    uint32_t session
    uint32_t own                # atomic
    uint32_t channel            # 0: a permission
    uint32_t next_peer          # atomic: chain of peer_heads
    uint32_t next_channel       # atomic: chain of channel_heads
    uint32_t next_of_allocation # writer alone
    uint32_t next               # writer alone: free list, retired list, closed list

cdef struct FlowCounters:
    uint64_t packets_to_peer
    uint64_t bytes_to_peer
    uint64_t packets_to_client
    uint64_t bytes_to_client

cdef struct Pool:
    uint32_t capacity           # slots 1 to capacity
    uint32_t used               # slots that have ever been taken
    uint32_t free               # head of the free list
    uint32_t live

cdef struct Retired:
    uint64_t epoch
    uint32_t kind
    uint32_t slot

cdef struct Tables:
    uint64_t seed_a
    uint64_t seed_b
    Allocation *allocations
    Flow *flows
    Relay *relays
    Session *sessions
    Pool allocation_pool
    Pool flow_pool
    Pool relay_pool
    Pool session_pool
    uint32_t *client_heads
    uint32_t *channel_heads
    uint32_t *peer_heads
    uint32_t *relay_heads
    uint32_t allocation_mask
    uint32_t flow_mask
    uint32_t relay_mask
    # Addresses of the node's own listeners, which no peer may be. Fixed before the start.
    Addr *endpoints
    uint32_t endpoint_count
    # 1:1 NAT: the node's addresses as they are seen from outside, and as they are bound.
    Addr *outer
    Addr *inner
    uint32_t external_count
    # Reclamation.
    uint64_t epoch                          # atomic
    uint64_t worker_epochs[MAX_WORKERS * 8] # atomic, one a cache line; 0: sees nothing
    uint32_t workers
    FlowCounters *counters[MAX_WORKERS + 1] # a lane a worker, the last the control plane's
    Retired *retired                        # a ring, oldest first
    uint32_t retired_capacity
    uint32_t retired_head
    uint32_t retired_count
    uint32_t closed_flows                   # list of flows that nobody sees any more
    uint32_t closed_flow_count
    uint32_t closed_sessions
    uint32_t closed_session_count


cdef inline uint32_t hash_address(
    const Tables *tables, const Addr *address, uint64_t salt
) noexcept nogil:
    cdef uint64_t mixed = fold(
        address.low ^ tables.seed_a,
        address.high ^ tables.seed_b ^ (<uint64_t>address.port << 48) ^ salt,
    )
    return <uint32_t>(mixed ^ (mixed >> 32))

cdef inline uint32_t hash_channel(
    const Tables *tables, uint32_t allocation, uint32_t channel
) noexcept nogil:
    cdef uint64_t mixed = fold(
        (<uint64_t>allocation << 16 | channel) ^ tables.seed_a, tables.seed_b
    )
    return <uint32_t>(mixed ^ (mixed >> 32))

cdef inline uint32_t find_allocation(
    const Tables *tables, const Addr *client, const Addr *server, uint32_t listener
) noexcept nogil:
    """By five-tuple. The listener tells most of the server's side; only one that is bound to a
    wildcard address has more than one server address."""
    cdef const Allocation *allocation
    cdef uint32_t index = load_sequential_32(
        &tables.client_heads[hash_address(tables, client, listener) & tables.allocation_mask]
    )
    while index:
        allocation = &tables.allocations[index]
        if (
            same_address(&allocation.client, client)
            and allocation.listener == listener
            and same_address(&allocation.server, server)
        ):
            return index
        index = load_sequential_32(&allocation.next_client)
    return 0

cdef inline uint32_t find_channel(
    const Tables *tables, uint32_t allocation, uint32_t channel
) noexcept nogil:
    cdef const Flow *flow
    cdef uint32_t index = load_sequential_32(
        &tables.channel_heads[hash_channel(tables, allocation, channel) & tables.flow_mask]
    )
    while index:
        flow = &tables.flows[index]
        if flow.allocation == allocation and flow.channel == channel:
            return index
        index = load_sequential_32(&flow.next_channel)
    return 0

cdef inline uint32_t find_peer(
    const Tables *tables, uint32_t allocation, const Addr *peer
) noexcept nogil:
    """The channel to `peer`, or with port 0 the permission for its IP address."""
    cdef const Flow *flow
    cdef uint32_t index = load_sequential_32(
        &tables.peer_heads[
            hash_address(tables, peer, <uint64_t>allocation << 16) & tables.flow_mask
        ]
    )
    while index:
        flow = &tables.flows[index]
        if flow.allocation == allocation and same_address(&flow.peer, peer):
            return index
        index = load_sequential_32(&flow.next_peer)
    return 0

cdef inline uint32_t find_relay(const Tables *tables, const Addr *address) noexcept nogil:
    """The relay that is bound to `address` and owned by an allocation."""
    cdef const Relay *relay
    cdef uint32_t index = load_sequential_32(
        &tables.relay_heads[hash_address(tables, address, 0) & tables.relay_mask]
    )
    while index:
        relay = &tables.relays[index]
        if same_address(&relay.address, address):
            return index
        index = load_sequential_32(&relay.next_address)
    return 0

cdef inline bint is_endpoint(const Tables *tables, const Addr *address) noexcept nogil:
    """Whether `address` would reach one of the node's own listeners."""
    cdef uint32_t i
    cdef const Addr *endpoint
    for i in range(tables.endpoint_count):
        endpoint = &tables.endpoints[i]
        if endpoint.port == address.port and endpoint.family == address.family:
            if same_address(endpoint, address) or (endpoint.low == 0 and endpoint.high == 0):
                return True
    return False

cdef inline void to_inner(const Tables *tables, Addr *address) noexcept nogil:
    """Replace the outer form of one of the node's own addresses by the one that is bound."""
    cdef uint32_t i
    for i in range(tables.external_count):
        if same_ip(&tables.outer[i], address):
            address.high = tables.inner[i].high
            address.low = tables.inner[i].low
            return

cdef inline bint within_second(
    uint64_t *window, uint64_t now_s, uint32_t amount, uint32_t limit
) noexcept nogil:
    """Count so many in the second `now_s`, `limit` at most: `window` is the second, and below it
    32 bits of count. Workers share it; one whose clock was read a little earlier counts in the
    newest second."""
    cdef uint64_t begin = now_s << 32
    cdef uint64_t seen, counted
    while True:
        seen = load_relaxed_64(window)
        counted = seen if seen > begin else begin
        if <uint32_t>counted + amount > limit:
            return False
        if swap_64(window, seen, counted + amount):
            return True

cdef inline bint spend_second(Session *session, uint64_t now_s) noexcept nogil:
    """Count the second `now_s` once, however many workers and allocations see it; False where the
    session has been granted no further second. The second and the count are one word: else a
    worker in the next second could read the count before another has added the last one."""
    cdef uint64_t seen
    while True:
        seen = load_relaxed_64(&session.active)
        if seen >> 32 >= now_s:
            return True
        if <uint32_t>seen >= load_relaxed_64(&session.granted_seconds):
            return False
        if swap_64(&session.active, seen, (now_s << 32 | <uint32_t>seen) + 1):
            return True

cdef inline uint64_t active_seconds(const Session *session) noexcept nogil:
    return <uint32_t>load_relaxed_64(&session.active)

cdef inline bint may_relay(
    Session *session, uint64_t now_s, const uint8_t *payload, uint32_t size
) noexcept nogil:
    """Whether the payload is paid for, or need not be. STUN keeps ways open and costs nothing, as
    long as there is no more of it than that takes."""
    if is_stun(payload, size) and within_second(
        &session.stun_in_second, now_s, size, STUN_BYTES_PER_SECOND
    ):
        return True
    return spend_second(session, now_s)


cdef Tables *create_tables(
    uint32_t allocations, uint32_t flows, uint32_t relays, uint32_t workers,
    uint64_t seed_a, uint64_t seed_b
) noexcept
cdef void destroy_tables(Tables *tables) noexcept
cdef uint32_t add_session(Tables *tables, uint64_t granted_seconds) noexcept
cdef void release_session(Tables *tables, uint32_t session) noexcept
cdef uint32_t add_relay(
    Tables *tables, const Addr *address, const Addr *public, int fd, uint32_t worker
) noexcept
cdef void remove_relay(Tables *tables, uint32_t relay) noexcept
cdef uint32_t add_allocation(
    Tables *tables, const Addr *client, const Addr *server, uint32_t listener, uint32_t session,
    uint64_t expires_ns, uint64_t picoseconds_per_byte
) noexcept
cdef void join_relay(Tables *tables, uint32_t allocation, uint32_t relay) noexcept
cdef void part_relay(Tables *tables, uint32_t allocation, uint32_t relay) noexcept
cdef void publish_allocation(Tables *tables, uint32_t allocation) noexcept
cdef void remove_allocation(Tables *tables, uint32_t allocation) noexcept
cdef uint32_t add_flow(
    Tables *tables, uint32_t allocation, const Addr *peer, uint32_t channel, uint32_t own,
    uint64_t expires_ns, uint64_t permission_expires_ns
) noexcept
cdef void refresh_permission(
    Tables *tables, uint32_t allocation, const Addr *peer, uint64_t expires_ns, uint32_t own
) noexcept
cdef void remove_flow(Tables *tables, uint32_t flow) noexcept
cdef void reclaim(Tables *tables) noexcept
cdef void free_closed_flow(Tables *tables, uint32_t flow) noexcept
cdef void free_closed_session(Tables *tables, uint32_t session) noexcept
